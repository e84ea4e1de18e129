"""Who has to leave, and how: asleep, or stopped. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arena_server.pool.ledger import NOTHING, Holding, Ledger, Shortage


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could leave, or is asleep (or about to be) and could be stopped.

    Busy ones can only be asked to leave: their running requests finish first. `asleep` is what it would hold
    asleep, None if it cannot sleep. `turn` is the place in the queue of the first who wants it.
    """

    name: str
    asleep: Holding | None
    last_used: float
    busy: bool = False
    leaving: bool = False  # asked to leave already
    sleeper: bool = False
    turn: float = math.inf

    @property
    def worth(self) -> tuple[float, float, str]:
        """The least first: who is wanted last, or not at all; then the least recently used."""
        return (-self.turn, self.last_used, self.name)

    @property
    def dear(self) -> bool:
        """Whether somebody in the queue wants it, and it could not come back but by a load."""
        return self.asleep is None and self.turn < math.inf


@dataclass(frozen=True, slots=True)
class Victims:
    """The awake models that have to leave, and the sleepers that have to be stopped for it.

    `enough` is False if not even all of the candidates make room; then nobody has to.
    """

    sleep: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()  # awake ones first
    any_busy: bool = False
    enough: bool = True

    @property
    def leaving(self) -> frozenset[str]:
        """All of them."""
        return frozenset((*self.sleep, *self.stop))


def choose_victims(
    ledger: Ledger, wanted: Mapping[str, Holding], candidates: Sequence[Candidate], *, sparing: bool = False
) -> Victims:
    """The models whose leaving lets all `wanted` hold what they want.

    First who is no longer awake: as few as possible, idle ones before busy ones, then least recently used first, as if
    every sleeper could be stopped (another who sleeps is cheaper than another who has to leave). Then, of those and of
    all sleepers, as many as fit beside `wanted` are (or stay) asleep, the most recently used ones. `sparing`: the dear
    ones after all others, even busy ones.
    """
    sleepers = [c for c in candidates if c.sleeper]
    # One that was asked to leave goes on with it: its leases would else grow again each time another looked better.
    order = sorted(
        (c for c in candidates if not c.sleeper),
        key=lambda c: (sparing and c.dear, c.busy, not c.leaving, *c.worth),
    )
    without_sleepers = ledger.copy(without=[c.name for c in sleepers])
    leaving = _free(without_sleepers, wanted, order)
    if leaving is None:
        return Victims(any_busy=any(c.busy for c in order), enough=False)
    to_sleep = {c.name: c.asleep for c in leaving if c.asleep is not None}
    asleep = {c.name: ledger.held[c.name] for c in sleepers} | to_sleep
    changes = {**wanted, **{c.name: to_sleep.get(c.name, NOTHING) for c in leaving}}
    lru = [c.name for c in sorted(candidates, key=lambda c: c.worth) if c.name in asleep]
    dropped = _drop(ledger, changes, asleep, lru)
    return Victims(
        sleep=tuple(c.name for c in leaving if c.name in to_sleep and c.name not in dropped),
        stop=(
            *(c.name for c in leaving if c.name not in to_sleep or c.name in dropped),
            *(c.name for c in sleepers if c.name in dropped),
        ),
        any_busy=any(c.busy for c in leaving),
    )


def _free(plan: Ledger, wanted: Mapping[str, Holding], order: Sequence[Candidate]) -> list[Candidate] | None:
    """The first in `order` whose going makes room, without those of them that turn out not to be needed.

    None if all of them do not make enough.
    """
    chosen: list[Candidate] = []
    left = plan.copy()
    for candidate in order:
        shortage = left.shortage(wanted)
        if not shortage:
            break
        if shortage.helped_by(left.held[candidate.name]):
            left.release(candidate.name)
            chosen.append(candidate)
    if left.shortage(wanted):
        return None
    for candidate in reversed(chosen.copy()):  # the last in order is the first to be spared
        with_it = left.copy()
        with_it.held[candidate.name] = plan.held[candidate.name]
        if not with_it.shortage(wanted):
            left = with_it
            chosen.remove(candidate)
    return chosen


def _drop(
    ledger: Ledger, changes: Mapping[str, Holding], asleep: Mapping[str, Holding], order: Sequence[str]
) -> frozenset[str]:
    """Which of the models `asleep` do not fit once the `changes` are made, the first in `order` first."""
    dropped: list[str] = []

    def shortage() -> Shortage:
        return ledger.shortage({**changes, **dict.fromkeys(dropped, NOTHING)})

    for name in order:
        short = shortage()
        if not short:
            break
        if short.helped_by(asleep[name]):
            dropped.append(name)
    for name in reversed(dropped.copy()):
        dropped.remove(name)
        if shortage():
            dropped.append(name)
    return frozenset(dropped)
