"""The common alternatives to the core, with the same face: events in, effects out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from arena_server.pool.events import (
    Effect,
    Event,
    Grant,
    Load,
    Loaded,
    Refusal,
    Refuse,
    Release,
    Request,
    Sleep,
    Slept,
    Stop,
    Stopped,
    Wake,
    Woken,
)
from arena_server.pool.residency import IN_TRANSITION, Residency

STARTABLE = (Residency.COLD, Residency.ASLEEP)


class Baseline:
    """What they have in common: a count limit, and one transition at a time."""

    def __init__(self, models: Iterable[str], room: int, *, sleeps: bool) -> None:
        self.room = room
        self.sleeps = sleeps
        self.at = dict.fromkeys(models, Residency.COLD)
        self.running: dict[str, set[int]] = {name: set() for name in self.at}
        self.last_used = dict.fromkeys(self.at, -math.inf)
        self.leases: dict[int, frozenset[str]] = {}
        self._effects: list[Effect] = []

    def next_deadline(self, now: float) -> float:
        """They watch no clock."""
        return math.inf

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what is to be done about it."""
        match event:
            case Request(ticket, models):
                self._request(ticket, models, now)
            case Release(ticket, done):
                for name in done or self.leases[ticket]:
                    self.running[name].remove(ticket)
                    self.last_used[name] = now
            case Loaded(name) | Woken(name):
                self.at[name] = Residency.AWAKE
                self.last_used[name] = now
            case Slept(name):
                self.at[name] = Residency.ASLEEP
            case Stopped(name):
                self.at[name] = Residency.COLD
            case _:
                pass
        self._serve(now)
        effects, self._effects = self._effects, []
        return effects

    def _request(self, ticket: int, models: frozenset[str], now: float) -> None:
        raise NotImplementedError

    def _serve(self, now: float) -> None:
        raise NotImplementedError

    # Small steps

    @property
    def at_rest(self) -> bool:
        """Whether a transition may begin."""
        return not any(r in IN_TRANSITION for r in self.at.values())

    @property
    def free(self) -> int:
        """Places that nobody holds."""
        return self.room - sum(r not in STARTABLE for r in self.at.values())

    def _lru(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: (self.last_used[name], name))

    def _grant(self, ticket: int, models: frozenset[str], now: float) -> None:
        self.leases[ticket] = models
        for name in models:
            self.running[name].add(ticket)
            self.last_used[name] = now
        self._effects.append(Grant(ticket))

    def _start(self, name: str) -> None:
        cold = self.at[name] is Residency.COLD
        self.at[name] = Residency.LOADING if cold else Residency.WAKING
        self._effects.append(Load(name) if cold else Wake(name))

    def _put_away(self, name: str) -> None:
        self.at[name] = Residency.FALLING_ASLEEP if self.sleeps else Residency.STOPPING
        self._effects.append(Sleep(name) if self.sleeps else Stop(name))


class Lru(Baseline):
    """The usual recipe: the least recently used leaves as soon as another is asked for.

    From that moment the victim takes no new requests; its running ones finish, then it is put away. Idle victims first.
    All who wait for a model go when it is up.

    Told of battles as such (not as two requests, see `World`), it is the same recipe for sets: a battle goes once both
    of its models are awake. Nothing keeps one of them awake until then, so there is a wait limit.
    """

    def __init__(self, models: Iterable[str], room: int, *, sleeps: bool, max_wait_s: float = math.inf) -> None:
        super().__init__(models, room, sleeps=sleeps)
        self.max_wait_s = max_wait_s
        self.queue: dict[int, tuple[frozenset[str], float]] = {}  # by ticket, oldest first: what it wants, its limit
        self.victims: set[str] = set()

    def next_deadline(self, now: float) -> float:
        """When the oldest has waited for too long."""
        return next((limit for _, limit in self.queue.values()), math.inf)

    def _request(self, ticket: int, models: frozenset[str], now: float) -> None:
        self.queue[ticket] = (models, now + self.max_wait_s)

    def _serve(self, now: float) -> None:
        for ticket, (models, limit) in list(self.queue.items()):
            if all(self.at[m] is Residency.AWAKE and m not in self.victims for m in models):
                del self.queue[ticket]
                self._grant(ticket, models, now)
            elif limit <= now:
                del self.queue[ticket]
                self._effects.append(Refuse(ticket, Refusal.WAIT_LIMIT, ""))
        asked_for = dict.fromkeys(name for models, _ in self.queue.values() for name in sorted(models))
        wanted = [name for name in asked_for if self.at[name] in STARTABLE]
        self._mark_victims(len(wanted))
        if not self.at_rest:
            return
        if wanted and self.free:
            self._start(wanted[0])
        elif idle := self._lru(v for v in self.victims if not self.running[v]):
            self.victims.remove(idle[0])
            self._put_away(idle[0])

    def _mark_victims(self, wanted: int) -> None:
        leaving = sum(r in (Residency.FALLING_ASLEEP, Residency.STOPPING) for r in self.at.values())
        lacking = wanted - self.free - leaving - len(self.victims)
        candidates = [n for n in self._lru(self.at) if self.at[n] is Residency.AWAKE and n not in self.victims]
        candidates.sort(key=lambda n: bool(self.running[n]))
        self.victims.update(candidates[: max(0, lacking)])


class Fifo(Baseline):
    """One queue, served strictly in order, pairs in one piece: nobody overtakes, not even to an awake model."""

    def __init__(self, models: Iterable[str], room: int, *, sleeps: bool) -> None:
        super().__init__(models, room, sleeps=sleeps)
        self.queue: list[tuple[int, frozenset[str]]] = []

    def _request(self, ticket: int, models: frozenset[str], now: float) -> None:
        self.queue.append((ticket, models))

    def _serve(self, now: float) -> None:
        while self.queue and all(self.at[m] is Residency.AWAKE for m in self.queue[0][1]):
            self._grant(*self.queue.pop(0), now)
        if self.queue and self.at_rest:
            self._make_ready(self.queue[0][1])

    def _make_ready(self, models: frozenset[str]) -> None:
        lacking: Sequence[str] = sorted(m for m in models if self.at[m] in STARTABLE)
        awake = (n for n, r in self.at.items() if r is Residency.AWAKE and n not in models)
        if self.free:
            self._start(lacking[0])
        elif idle := self._lru(n for n in awake if not self.running[n]):
            self._put_away(idle[0])
