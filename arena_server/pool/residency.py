"""Where a model can be, and the only moves between those places.

A model is *cold* (no process), *loading* (its engine starts), *awake* (it answers), *falling asleep*, *asleep* (its
process lives, most of its GPU memory is free), *waking*, *stopping* (its processes end and its memory comes back)
or *failed* (it failed several times in a row and is left alone for a while). Every failure goes through *stopping*: an
engine that failed may still hold memory, and nothing may count on that memory before it is back.

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
    FALLING_ASLEEP = "falling asleep"
    ASLEEP = "asleep"
    WAKING = "waking"
    STOPPING = "stopping"
    FAILED = "failed"


MOVES: Mapping[Residency, Mapping[Residency, str]] = {
    Residency.COLD: {Residency.LOADING: "a request wants it"},
    Residency.LOADING: {Residency.AWAKE: "it answers", Residency.STOPPING: "the load failed, or is called off"},
    Residency.AWAKE: {
        Residency.FALLING_ASLEEP: "evicted, or idle too long",
        Residency.STOPPING: "evicted and cannot sleep, or crashed",
    },
    Residency.FALLING_ASLEEP: {Residency.ASLEEP: "its memory is free", Residency.STOPPING: "it failed to"},
    Residency.ASLEEP: {Residency.WAKING: "a request wants it", Residency.STOPPING: "room runs short, or it died"},
    Residency.WAKING: {Residency.AWAKE: "it answers as before", Residency.STOPPING: "it failed to, or is called off"},
    Residency.STOPPING: {Residency.COLD: "memory is back", Residency.FAILED: "failed again"},
    Residency.FAILED: {Residency.COLD: "time to try again, or an operator says so"},
}

# In one of these, a transition is under way: the only one on its devices.
IN_TRANSITION = frozenset({Residency.LOADING, Residency.FALLING_ASLEEP, Residency.WAKING, Residency.STOPPING})
# On the way to be awake: nothing more has to be done for who waits for it.
COMING_UP = frozenset({Residency.LOADING, Residency.WAKING})


class IllegalMove(Exception):
    """A move that is not in the table: a defect in the pool, never a user's fault."""


def move(name: str, now: Residency, to: Residency) -> Residency:
    """The new residency of model `name`; raises IllegalMove if there is no such move."""
    if to not in MOVES[now]:
        raise IllegalMove(f"{name}: {now} -> {to}")
    return to


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    ids = {residency: residency.value.replace(" ", "_") for residency in Residency}
    lines = ["stateDiagram-v2", "    [*] --> cold"]
    lines += [f"    {ids[now]} --> {ids[to]}: {why}" for now, moves in MOVES.items() for to, why in moves.items()]
    return "\n".join(lines)
