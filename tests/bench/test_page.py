"""The page says what the results say, in every part; and each benchmark has its place there."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench import page
from bench.catalogue import CATALOGUE
from bench.headlines import HEADLINES
from bench.page import PageError, rendered, section, summary
from bench.pictures.drawing import PICTURES, draw
from bench.result import RESULTS, Result, kept, parse

NAMES = [benchmark.name for benchmark in CATALOGUE]
SAMPLES: dict[str, Any] = json.loads(Path(__file__).with_name("sample_figures.json").read_text())


def a_result(name: str, *, met: bool = True) -> Result:
    return Result(
        bench=name,
        command=f"python -m bench.{name} --json",
        began=datetime(2026, 11, 22, 9, 30, tzinfo=UTC),
        seconds=61.2,
        commit="f9feb68",
        machine={"cpu": "Some CPU", "cores": 2, "memory_gib": 23.5, "load_average": 0.1},
        versions={"arena-server": "0.1.0", "python": "3.11.7"},
        goal=f"{name} is as good as it should be",
        met=met,
        lines=["first line", "    second line  1.23"],
        figures=SAMPLES[name],
    )


def test_the_page_is_in_step_with_the_results() -> None:
    text, results = page.PAGE.read_text(), kept()
    assert rendered(text, results, frozenset(results.keys() & PICTURES)) == text, "run python -m bench.page"


def test_the_pictures_are_drawn_from_the_results() -> None:
    results = kept()
    drawn = {path.stem: path.read_text() for path in RESULTS.glob("*.svg")}
    assert set(drawn) == results.keys() & PICTURES.keys()
    assert [name for name, picture in drawn.items() if results[name].mark() not in picture] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_a_program_with_a_place_on_the_page(name: str) -> None:
    bench = Path(page.__file__).parent
    assert (bench / f"{name}.py").exists() or (bench / name / "__main__.py").exists()
    text = page.PAGE.read_text()
    assert text.count(f"<!-- {name} -->\n") == text.count(f"<!-- /{name} -->\n") == 1


def test_the_summary_links_to_headings_of_the_page() -> None:
    text = page.PAGE.read_text()
    links = set(re.findall(r"\(#([^)]+)\)", summary({})))
    headings = {page._anchor(heading) for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    assert links <= headings


def test_rendering_twice_changes_nothing() -> None:
    results = {name: a_result(name) for name in NAMES}
    once = rendered(page.PAGE.read_text(), results, frozenset(NAMES))
    assert rendered(once, results, frozenset(NAMES)) == once
    assert page.NOT_MEASURED not in once
    assert rendered(once, {}, frozenset()).count(page.NOT_MEASURED) == len(NAMES)


@pytest.mark.parametrize("benchmark", CATALOGUE, ids=NAMES)
def test_a_section_says_all_of_a_result(benchmark: Any) -> None:
    said = section(benchmark, a_result(benchmark.name, met=False), True)
    for part in (
        "2026-11-22 09:30 UTC", "f9feb68", "2 cores of Some CPU", "arena-server 0.1.0", "    second line  1.23",
        f"python -m bench.{benchmark.name} --json", "**NOT MET**", f"benchmarks/{benchmark.name}.json",
        f"benchmarks/{benchmark.name}.svg",
    ):  # fmt: skip
        assert part in said


def test_all_commands_that_a_result_took_are_in_one_block() -> None:
    result = replace(a_result("gpu_swap"), command="python -m one\npython -m other")
    assert section(CATALOGUE[0], result, False).endswith("\n\n    python -m one\n    python -m other")


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_has_main_figures_of_each(name: str) -> None:
    assert name in HEADLINES
    row = next(line for line in summary({name: a_result(name)}).splitlines() if f"`{name}`" in line)
    assert "| met |" in row
    assert re.search(r"\d", row.rsplit("| met |")[1])


def test_the_relays_main_figures_have_all_that_its_goal_is_about() -> None:
    told = HEADLINES["overhead"](SAMPLES["overhead"])
    assert told.startswith("first token +0.80 ms at 1 client, p99 +1.2 ms at 16, +1.2 ms at 64, +1.2 ms at 256")
    assert told.endswith("0.998 at 16, 0.998 at 64, 0.998 at 256")


def test_figures_of_another_shape_are_told_by_name() -> None:
    odd = parse(a_result("overhead").text().replace("added_ms", "added_us"))
    with pytest.raises(PageError, match=r"overhead\.json"):
        summary({"overhead": odd})


def test_a_page_without_markers_and_a_result_of_nothing_are_refused() -> None:
    with pytest.raises(PageError, match="summary"):
        rendered("# Benchmarks\n", {}, frozenset())
    with pytest.raises(PageError, match="nonsense"):
        rendered(page.PAGE.read_text(), {"nonsense": a_result("cost")}, frozenset())


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_small_and_says_what_it_was_drawn_from(name: str, tmp_path: Path) -> None:
    result = a_result(name)
    path = draw(result, tmp_path)
    assert path is not None
    picture = path.read_bytes()
    assert len(picture) < 100_000
    assert result.mark().encode() in picture


def test_the_relays_picture_shows_the_ways_that_were_measured() -> None:
    without = copy.deepcopy(SAMPLES["overhead"])
    for found in (without["one_client"], without["back_to_back"], *without["streams"]):
        del found["first_token_ms"]["bare"]
    direct, bare, relay = "engine's own socket", "through a bare relay", "through arena-server"
    for figures, ways in ((SAMPLES["overhead"], [direct, bare, relay]), (without, [direct, relay])):
        assert [text.get_text() for text in PICTURES["overhead"](figures).legends[0].get_texts()] == ways


def test_a_cold_start_is_as_long_as_it_was_and_not_as_its_phases_medians_together() -> None:
    told = [text.get_text() for text in PICTURES["cold_start"](SAMPLES["cold_start"]).axes[0].texts]
    assert told == ["22.0 s (21.0 fixed)", "1.21 s (1.16 fixed)"]


def test_no_bar_stands_on_a_logarithmic_axis() -> None:
    for name in NAMES:
        for axes in PICTURES[name](SAMPLES[name]).axes:
            assert axes.get_xscale() == "linear" or not axes.patches, name


def test_a_picture_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    first, again = (tmp_path / name for name in ("first", "again"))
    for directory in (first, again):
        directory.mkdir()
        draw(a_result("while_loading"), directory)
    assert (first / "while_loading.svg").read_bytes() == (again / "while_loading.svg").read_bytes()


def test_a_result_survives_its_file() -> None:
    result = a_result("evening")
    assert parse(result.text()) == result
