"""Where a model can be, and the only moves between those places.

A model is *cold* (no process), *loading* (its engine starts), *awake* (it answers), *stopping* (its
processes end and its memory comes back) or *failed* (it failed several times in a row and is left
alone for a while). Every failure goes through *stopping*: an engine that failed may still hold memory, and nothing may
count on that memory before it is back.

*Asleep* takes its place between awake and stopping when engines can sleep.

The table is the truth: `docs/design.md` shows the diagram that `diagram` makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Residency(StrEnum):
    """Where a model is."""

    COLD = "cold"
    LOADING = "loading"
    AWAKE = "awake"
    STOPPING = "stopping"
    FAILED = "failed"


MOVES: Mapping[Residency, Mapping[Residency, str]] = {
    Residency.COLD: {Residency.LOADING: "a request wants it"},
    Residency.LOADING: {Residency.AWAKE: "it answers", Residency.STOPPING: "the load failed"},
    Residency.AWAKE: {Residency.STOPPING: "evicted, idle too long, or crashed"},
    Residency.STOPPING: {Residency.COLD: "memory is back", Residency.FAILED: "failed again"},
    Residency.FAILED: {Residency.COLD: "time to try again"},
}

# A model in one of these holds memory on its devices (or is about to), and counts as awake against the limit.
HOLDS_MEMORY = frozenset({Residency.LOADING, Residency.AWAKE, Residency.STOPPING})
# In one of these, a transition is under way: the only one on its devices.
IN_TRANSITION = frozenset({Residency.LOADING, Residency.STOPPING})


class IllegalMove(Exception):
    """A move that is not in the table: a defect in the pool, never a user's fault."""


def move(name: str, now: Residency, to: Residency) -> Residency:
    """The new residency of model `name`; raises IllegalMove if there is no such move."""
    if to not in MOVES[now]:
        raise IllegalMove(f"{name}: {now} -> {to}")
    return to


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> cold"]
    lines += [f"    {now} --> {to}: {why}" for now, moves in MOVES.items() for to, why in moves.items()]
    return "\n".join(lines)
