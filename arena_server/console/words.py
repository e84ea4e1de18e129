"""Figures, names and moments as short text for a terminal."""

from __future__ import annotations

import re
from datetime import datetime

from rich.cells import cell_len, set_cell_size

ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # colours and the like (ECMA-48's control sequences)


def gib(size: int) -> str:
    """Bytes in GiB, without the unit."""
    return f"{size / (1 << 30):.1f}"


def took(seconds: float | None) -> str:
    """What something took, or how long it has been, in at most five letters."""
    if seconds is None:
        return "-"
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f}s"
    for unit_s, unit, limit in ((1, "s", 100), (60, "m", 100), (3600, "h", 48)):
        if seconds / unit_s < limit - 0.5:
            return f"{seconds / unit_s:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


def left(eta_s: float | None) -> str:
    """How long something will still take, or nothing."""
    return "" if eta_s is None else f"about {took(eta_s)} left"


def count(number: int, noun: str) -> str:
    """`1 swap`, `2 swaps`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def clean(text: str) -> str:
    """One line without control characters: an engine's error may hold escapes that would move the cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in ESCAPE.sub("", text)).split())


def cut(text: str, width: int) -> str:
    """Not wider than that: the middle goes, as the ends of a model's name tell most."""
    if cell_len(text) <= width:
        return text
    if width < 2:
        return "…"[:width]
    head = set_cell_size(text, (width - 1) // 2).rstrip()
    tail = text
    while cell_len(tail) > width - 1 - cell_len(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def moment(at: str) -> str:
    """The time of day, here, of an ISO 8601 moment."""
    try:
        return datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return clean(at)
