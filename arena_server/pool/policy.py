"""Who has to leave. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arena_server.pool.ledger import Footprint, Ledger


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could leave. Busy ones can only be asked to: their running requests finish first."""

    name: str
    footprint: Footprint
    busy: bool
    last_used: float


@dataclass(frozen=True, slots=True)
class Victims:
    """The models that have to leave, in that order. `enough` is False if not even all of the candidates make room."""

    names: tuple[str, ...]
    any_busy: bool
    enough: bool


def choose_victims(ledger: Ledger, wanted: Sequence[Footprint], candidates: Sequence[Candidate]) -> Victims:
    """The models whose leaving lets all `wanted` fit: idle ones first, then least recently used first.

    Models that turn out not to be needed, because one chosen after them made all the room, are spared.
    """
    chosen: list[Candidate] = []
    plan = ledger.copy()
    for candidate in sorted(candidates, key=lambda c: (c.busy, c.last_used, c.name)):
        shortage = plan.shortage(wanted)
        if not shortage:
            break
        if shortage.helped_by(candidate.footprint):
            plan.release(candidate.name)
            chosen.append(candidate)
    enough = not plan.shortage(wanted)
    if enough:
        # The most recently used first: if one can be spared, let it be that one.
        for candidate in reversed(chosen.copy()):
            with_it = plan.copy()
            with_it.held[candidate.name] = candidate.footprint
            if not with_it.shortage(wanted):
                plan = with_it
                chosen.remove(candidate)
    return Victims(tuple(c.name for c in chosen), any(c.busy for c in chosen), enough)
