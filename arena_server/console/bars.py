"""Bars of text. Each part has a letter of its own too, as not every terminal has colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

DONE, TO_DO = "█", "░"


def progress(fraction: float, width: int) -> Text:
    """How far something is."""
    done = round(min(max(fraction, 0.0), 1.0) * width)
    return Text.assemble((DONE * done, "green"), (TO_DO * (width - done), "dim"))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a whole, and how it is drawn."""

    name: str
    size: int
    letter: str
    style: str


def shares(parts: Sequence[Part], total: int, width: int) -> Text:
    """Parts of a whole; what they leave is blank. A part that is not nothing can be seen."""
    bar = Text()
    end = 0
    for part in parts:
        end += part.size
        cells = (round(end / total * width) if total > 0 else 0) - len(bar)
        cells = max(cells, 1 if part.size > 0 else 0)
        bar.append(part.letter * min(cells, width - len(bar)), part.style)
    return bar.append(" " * (width - len(bar)))
