"""The world's own view of whose turn it is, and of who went before whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Place:
    """One who waits, or waited."""

    asker: str
    turn: int
    lag: int  # how many turns that was after the head's when it came
    passed: Counter[str] = field(default_factory=Counter)  # by asker: events in which later ones of theirs went first


class Turns:
    """Tells each newcomer's place, and keeps count of those who went before one who came earlier."""

    def __init__(self) -> None:
        self.places: dict[int, Place] = {}
        self.order: list[int] = []  # who waits
        self._turn = 0  # the head's
        self._had: Counter[str] = Counter()  # by asker: the turn after its last one, if that was served
        self._went: list[int] = []  # with this event, having had their turn

    def come(self, ticket: int, asker: str, drained_for: int | None) -> list[int]:
        """Who is behind the newcomer: all of a later turn."""
        own = [self.places[t].turn + 1 for t in self.order if self.places[t].asker == asker]
        after = self.places[drained_for].turn if drained_for in self.order and drained_for is not None else 0
        turn = max([self._turn, self._had[asker], after, *own])
        behind = [t for t in self.order if self.places[t].turn > turn]
        self.places[ticket] = Place(asker, turn, turn - self._turn)
        self.order = [*(t for t in self.order if t not in behind), ticket, *behind]
        return behind

    def go(self, ticket: int, *, served: bool) -> None:
        """It waits no more. One that goes unserved has had its turn, too, if it came as late as that."""
        if ticket in self.order:
            self.order.remove(ticket)
            if served or self.places[ticket].turn <= self._turn:
                self._went.append(ticket)

    def forget(self, ticket: int) -> None:
        """It need not have waited, or could not."""
        self.order = [t for t in self.order if t != ticket]

    def end_event(self, granted: Iterable[int]) -> None:
        """All that go have gone; those of one asker had one turn together."""
        for asker, first in self._firsts(self._went).items():
            self._had[asker] = max(self._had[asker], first + 1)
        granted = [t for t in granted if t in self._went]  # not those that need not have waited
        self._went = []
        for passed in self.order:
            earlier = self.places[passed]
            later = (self.places[t] for t in granted if t > passed)
            earlier.passed.update({place.asker for place in later if place.turn < earlier.turn})
        self._turn = min((self.places[t].turn for t in self.order), default=0)
        if not self.order:
            self._had.clear()

    def wronged(self) -> str | None:
        """Who was passed more often by one asker than it had turns to wait, if anybody."""
        for ticket in self.order:
            place = self.places[ticket]
            for asker, times in place.passed.items():
                if times > place.lag:
                    return f"ticket {ticket} of {place.asker!r} was passed {times} times by {asker!r}"
        return None

    def _firsts(self, tickets: Iterable[int]) -> dict[str, int]:
        firsts: dict[str, int] = {}
        for ticket in tickets:
            place = self.places[ticket]
            firsts[place.asker] = min(place.turn, firsts.get(place.asker, place.turn))
        return firsts
