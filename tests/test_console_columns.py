"""A comparison drawn for terminals of any size."""

from __future__ import annotations

import pytest
from rich.console import Console

from arena_server.console.columns import screen as drawn
from arena_server.console.sides import Comparison
from tests.test_console_compare import finished


def comparison(*models: str, text: str = "") -> Comparison:
    told = Comparison()
    letters = "abcd"[: len(models)]
    sides = [{"side": letter, "model": model} for letter, model in zip(letters, models, strict=True)]
    told.take("start", {"sides": sides, "co_residency": "one_after_another", "order": list(letters)}, 0.0)
    for letter in letters:
        told.take("delta", {"side": letter, "text": text}, 0.0) if text else None
        told.take("delta", {"side": letter, "reasoning": "thought " * 9}, 0.0)
    return told


@pytest.mark.parametrize("models", [2, 3, 4])
def test_no_screen_is_too_small(models: int) -> None:
    told = comparison(*("日本/model" * 4 for _ in range(models)), text="word 日本語テキスト\t" * 90 + "x" * 300)
    told.take("error", {"side": "b", "error": {"message": "no memory " * 9}}, 0.0)
    told.take("done", finished("a"), 0.0)
    console = Console()
    for width in (1, 2, 5, 27, 59, 91, 300):
        for height in (1, 3, 6, 40):
            lines = drawn(told, 1.0, console, width, height)
            assert len(lines) <= height
            assert width < 3 or max(line.cell_len for line in lines) <= width


@pytest.mark.parametrize(
    ("models", "width", "rows"),
    [(2, 58, [1, 1]), (2, 59, [2]), (3, 80, [2, 1]), (3, 90, [3]), (4, 80, [2, 2]), (4, 110, [2, 2]), (4, 121, [4])],
)
def test_the_grid_is_as_wide_as_can_be_read(models: int, width: int, rows: list[int]) -> None:
    names = [f"model-{letter}" for letter in "abcd"[:models]]
    lines = [line.plain for line in drawn(comparison(*names), 1.0, Console(), width, 30)]
    assert [line.count("model-") for line in lines if "thinking 1.0s" in line] == rows


def test_a_long_text_breaks_its_lines_at_the_same_places_while_it_grows() -> None:
    told = comparison("alpha", "beta", text=" ".join(f"word-{number}" for number in range(100, 900)))
    began = set()
    for number in range(900, 910):
        told.take("delta", {"side": "a", "text": f" word-{number}"}, 1.0)
        lines = [line.plain[:28] for line in drawn(told, 1.0, Console(), 59, 20)]
        rows = [line for line in lines if line.startswith("word-")]
        assert len(rows) > 10
        assert f"word-{number}" in rows[-1]
        began |= {int(row[5:8]) % 3 for row in rows}  # there are three in a row
    assert len(began) == 1
