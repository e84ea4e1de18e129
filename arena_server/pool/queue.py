"""Who waits, and in which order: by turns, which those who ask share fairly. Pure.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), with one turn for each request: somebody's next request
has the turn after its last one, but no earlier than the one that is being served, which is the head's. So the hundredth
request of one key waits behind the first of another, and among the requests of one key the order is that of arrival.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Waiter:
    """A ticket in the queue."""

    ticket: int
    models: frozenset[str]
    since: float
    asker: str = ""
    turn: int = 0
    patient_until: float | None = None  # only busy models could make room for it: until when it bears with them


class Waiters:
    """The queue, in order: by turn, and within one by arrival. So nobody comes in before the head.

    Who leaves has had its turn, or an asker who is quick to ask again would pass the others for ever. Not so who gave
    up, or was refused, before the turn came. Of those who go in one step (a model came up that they all wait for) only
    the first counts: a hundred requests for one swap are no reason to wait behind a hundred swaps of others.
    """

    def __init__(self) -> None:
        self._order: list[Waiter] = []
        self._turn = 0  # the head's, when this step began
        self._had: dict[str, int] = {}  # by asker: the last turn it has had, unless that is over for all
        self._leaving: dict[str, int] = {}  # by asker: the first turn it has had in this step

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)

    def of(self, ticket: int | None) -> Waiter | None:
        """The waiter with this ticket, if it waits."""
        return next((w for w in self._order if w.ticket == ticket), None)

    def add(self, waiter: Waiter, behind: Waiter | None = None) -> None:
        """Give a newcomer its turn, and its place; it does not pass the one that it has to stay `behind`."""
        last = next((w.turn for w in reversed(self._order) if w.asker == waiter.asker), -1)
        last = max(last, self._had.get(waiter.asker, -1))
        waiter.turn = max(self._turn, last + 1, behind.turn if behind is not None else 0)
        self._order.insert(bisect_right(self._order, waiter.turn, key=lambda w: w.turn), waiter)

    def remove(self, waiter: Waiter, *, served: bool) -> None:
        """It leaves: `served`, or for another reason."""
        self._order.remove(waiter)
        if served or waiter.turn <= self._turn:
            self._leaving[waiter.asker] = min(waiter.turn, self._leaving.get(waiter.asker, waiter.turn))

    def end_step(self) -> None:
        """Everybody who goes in this step has gone."""
        for asker, turn in self._leaving.items():
            self._had[asker] = max(turn, self._had.get(asker, turn))
        self._leaving.clear()
        self._turn = self._order[0].turn if self._order else 0
        self._had = {asker: turn for asker, turn in self._had.items() if turn >= self._turn and self._order}

    def gives_way(self, asker: str) -> Waiter | None:
        """Who leaves a full queue to a newcomer of this asker: the last of the asker with the most in it.

        None if that one would have no more than the newcomer's then: else one could keep all the others out. (Known
        from packet queues as longest-queue drop.)
        """
        counts = Counter(w.asker for w in self._order)
        last = {w.asker: place for place, w in enumerate(self._order)}
        most = max(counts, key=lambda a: (counts[a], last[a]))
        return self._order[last[most]] if counts[most] > counts[asker] + 1 else None
