"""Parts of the GPU benchmark, measured in several calls, make one result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench import gpu_swap
from bench.gpu_swap_parts import PartsError, joined, main
from bench.headlines import HEADLINES
from bench.result import Result, keep, parse
from tests.gpu.swap_figures import BYTES, HOST, seconds_of, swap_of

VERSIONS = {"vllm": "0.32.0"}
ABOUT = {"dry_run": False, "size": "8b"}


def a_part(
    minute: int, figures: Mapping[str, Any], *, machine: Mapping[str, Any] = HOST, commit: str = "f9feb68"
) -> Result:
    """As the suite keeps what a call prints, and as it is read again."""
    fields = gpu_swap.report(machine, {**ABOUT, **figures}).fields()
    command = f"python -m bench.gpu_swap, call {minute}"
    began = datetime(2026, 11, 22, 9, minute, tzinfo=UTC)
    made = Result(**fields, command=command, began=began, seconds=200.0, commit=commit, versions=VERSIONS)
    return parse(made.text())


ENGINES = a_part(10, {"seconds": seconds_of([1.0, 2.0, 9.0]), "bytes": BYTES, "swap_s": {}})
ONE = a_part(20, {"swap_s": {"1": swap_of(3.0)}})
OTHERS = a_part(30, {"swap_s": {"2": swap_of(4.0), "0": swap_of(5.0)}})


def test_the_whole_says_what_one_call_would_have_said() -> None:
    whole = joined([OTHERS, ENGINES, ONE])
    swaps = {"0": swap_of(5.0), "1": swap_of(3.0), "2": swap_of(4.0)}
    at_once = a_part(10, {"seconds": seconds_of([1.0, 2.0, 9.0]), "bytes": BYTES, "swap_s": swaps})
    assert (whole.lines, whole.goal, whole.met) == (at_once.lines, at_once.goal, at_once.met)
    assert whole.met
    assert whole.figures == at_once.figures
    assert list(whole.figures["swap_s"]) == ["0", "1", "2"]
    assert HEADLINES["gpu_swap"](whole.figures) == HEADLINES["gpu_swap"](at_once.figures)


def test_the_whole_tells_how_it_came_about() -> None:
    busy = {**HOST, "load_average": 7.5, "memory_gib": 1.5}
    late = a_part(30, {"swap_s": {"2": swap_of(4.0)}}, machine=busy, commit="abc")
    whole = joined([late, ENGINES, ONE])
    assert whole.command.splitlines() == [f"python -m bench.gpu_swap, call {minute}" for minute in (10, 20, 30)]
    assert whole.began == ENGINES.began
    assert whole.seconds == 600
    assert whole.commit == "f9feb68, abc"
    assert whole.machine == {**HOST, "load_average": 7.5}
    assert whole.versions == VERSIONS


def test_one_part_alone_stays_as_it_is() -> None:
    assert joined([ENGINES]) == ENGINES


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([ONE, OTHERS], "one part must have measured the engines, and 0 have"),
        ([ENGINES, ONE, ENGINES], "and 2 have"),
        ([ENGINES, ONE, OTHERS, ONE], "several parts have swaps at level 1"),
        ([ENGINES, a_part(20, {"swap_s": {}}, machine={**HOST, "device": "y", "driver": "6"})], "device, driver$"),
        ([ENGINES, a_part(20, {"swap_s": {}, "size": "1b"})], "size"),
        ([ENGINES, replace(ONE, versions={"vllm": "0.33.0"})], "vllm"),
        ([ENGINES, replace(ONE, bench="gpu_throughput")], "gpu_throughput"),
    ],
)
def test_parts_that_make_no_whole_are_refused(parts: list[Result], why: str) -> None:
    with pytest.raises(PartsError, match=why):
        joined(parts)


def test_the_program_keeps_the_whole_as_the_suite_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / name / "gpu_swap.json" for name in ("engines", "level-1")]
    for path, part in zip(paths, (ENGINES, ONE), strict=True):
        keep(path, part)
    monkeypatch.setattr("sys.argv", ["parts", *map(str, paths), "--out", str(tmp_path / "out")])
    assert main() == 0
    kept = parse((tmp_path / "out" / "gpu_swap.json").read_text())
    assert kept == joined([ENGINES, ONE])
    assert capsys.readouterr().out.splitlines() == kept.lines

    monkeypatch.setattr("sys.argv", ["parts", str(paths[1]), "--out", str(tmp_path / "none")])
    assert main() == 1
    assert "engines" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
