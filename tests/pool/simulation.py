"""A world with durations: loads, stops and answers take their time and end well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .world import FALLING_ASLEEP, LOADING, STOPPING, WAKING, World, require


@dataclass(frozen=True, slots=True)
class Durations:
    load_s: float = 4.0
    stop_s: float = 1.0
    sleep_s: float = 1.0
    wake_s: float = 0.5
    hold_s: float = 6.0


def play(world: World, durations: Durations, arrivals: Sequence[tuple[float, frozenset[str], str]] = ()) -> None:
    """Let time pass until nothing is left to happen. `arrivals`: seconds from now, models and asker."""
    began = world.now
    coming = [(began + at, names, asker) for at, names, asker in arrivals]
    ends: dict[str | int | None, float] = {}
    for _ in range(10_000):
        under_way: dict[str | int | None, float] = dict.fromkeys(world.live, durations.hold_s)
        under_way |= dict.fromkeys(world.at(LOADING), durations.load_s)
        under_way |= dict.fromkeys(world.at(STOPPING), durations.stop_s)
        under_way |= dict.fromkeys(world.at(FALLING_ASLEEP), durations.sleep_s)
        under_way |= dict.fromkeys(world.at(WAKING), durations.wake_s)
        ends = {what: ends.get(what, world.now + takes) for what, takes in under_way.items()}
        due = min([*ends.values(), *(at for at, _, _ in coming[:1]), world.deadline()], default=math.inf)
        if math.isinf(due):
            break
        if due > world.now:
            world.tick(until=math.nextafter(due, world.now))
        what = next((what for what, at in ends.items() if at <= due), None)
        if what is None and not (coming and coming[0][0] <= due):
            world.tick(until=due)
            continue
        world.now = max(world.now, due)
        ends.pop(what, None)
        if what is None:
            _, names, asker = coming.pop(0)
            world.request(*names, asker=asker)
        elif isinstance(what, int):
            world.release(what)
        elif what is not None:
            world.ends(what)
    else:
        require(False, "it never comes to rest")
    require(not world.waiting, f"stranded: tickets {sorted(world.waiting)} wait and nothing will happen")
    require(not world.core.leases, f"leaked: leases {sorted(world.core.leases)} outlive their tickets")


def longest_wait_s(world: World, durations: Durations, ahead: int) -> float:
    """More than anybody may wait while all goes well: a turn of its own and one for each that came before.

    In a turn, what is under way ends, the busy ones are borne with and then finish, and all models leave and come up.
    """
    n = len(world.models)
    patience_s = world.limits.patience_s
    if patience_s is None:
        patience_s = sum(max(10.0, m.load_s) + 3.0 for m in world.models.values())
    moves_s = durations.load_s + durations.stop_s + durations.sleep_s + durations.wake_s
    return (ahead + 1) * (patience_s + durations.hold_s + 2 * n * moves_s)
