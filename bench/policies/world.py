"""A pool's surroundings in virtual time: requests come, transitions and answers take their time and end well."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from arena_server.pool.events import (
    Effect,
    Event,
    Grant,
    Load,
    Loaded,
    Refuse,
    Release,
    Request,
    Sleep,
    Slept,
    Stop,
    Stopped,
    Tick,
    Wake,
    Woken,
)
from arena_server.pool.residency import COMING_UP, IN_TRANSITION, Residency, move
from bench.policies.traces import Job


class Policy(Protocol):
    """What `PoolCore` is: told of events, it says what is to be done."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what is to be done about it."""

    def next_deadline(self, now: float) -> float:
        """When a Tick is due if nothing happens before."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What each transition takes, in seconds."""

    cold_s: float = 30.0
    wake_s: float = 1.5
    sleep_s: float = 2.0
    stop_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Models of one size, how many of them fit, and what they can do."""

    models: Sequence[str]
    room: int
    sleeps: bool
    costs: Costs = Costs()


@dataclass(slots=True)
class Outcome:
    """What became of the requests."""

    waits_s: list[float]  # until all models were granted (or it was refused), in the order of the trace
    apart_s: list[float]  # between the grants of a battle's sides
    refused: int = 0
    finished: int = 0
    loads: int = 0
    wakes: int = 0
    swaps: int = 0  # awake models that were put away
    ended_at: float = 0.0
    transition_s: float = 0.0  # the device was in transition
    log: list[tuple[float, str, Residency]] = field(default_factory=list)


@dataclass(slots=True)
class _Ticket:
    job: int
    service_s: dict[str, float]  # by model
    granted_at: float = math.nan

    @property
    def models(self) -> frozenset[str]:
        return frozenset(self.service_s)


class World:
    """Plays one trace against one policy, and holds the policy to the rules of the machine."""

    def __init__(self, policy: Policy, pool: Pool, *, splits: bool = False) -> None:
        """`splits`: a battle is two requests to this policy, each for one model."""
        self.policy = policy
        self.pool = pool
        self.splits = splits
        self.at = dict.fromkeys(pool.models, Residency.COLD)
        self._tickets: list[_Ticket] = []
        self._sides: list[list[_Ticket]] = []  # by job
        self._coming: list[tuple[float, int, Event | int]] = []  # an int: the job of that number arrives
        self._count = 0
        self._live: set[tuple[int, str]] = set()  # tickets, and what they still use
        self.outcome = Outcome([], [])

    def play(self, jobs: Sequence[Job]) -> Outcome:
        """Until nothing is left to happen."""
        self.outcome.waits_s = [math.nan] * len(jobs)
        self.outcome.apart_s = [0.0] * len(jobs)
        self._sides = [[] for _ in jobs]
        now = 0.0
        for number, job in enumerate(jobs):
            self._later(job.at, number)
        while True:
            due = self.policy.next_deadline(now)
            if not self._coming and math.isinf(due):
                break
            if not self._coming or due < self._coming[0][0]:
                now = due
                self._tell(Tick(), now, jobs)
                continue
            now, _, what = heapq.heappop(self._coming)
            if isinstance(what, int):
                self._arrive(what, now, jobs)
            else:
                self._tell(what, now, jobs)
        self.outcome.ended_at = now
        assert not any(math.isnan(w) for w in self.outcome.waits_s), (
            "stranded: a request waits, and nothing will happen"
        )
        assert self.outcome.finished + self.outcome.refused == len(jobs), "a request was lost"
        return self.outcome

    def _later(self, at: float, what: Event | int) -> None:
        self._count += 1
        heapq.heappush(self._coming, (at, self._count, what))

    def _arrive(self, number: int, now: float, jobs: Sequence[Job]) -> None:
        job = jobs[number]
        if self.splits:
            sides = [_Ticket(number, {m: s}) for m, s in zip(job.models, job.service_s, strict=True)]
        else:
            sides = [_Ticket(number, dict(zip(job.models, job.service_s, strict=True)))]
        self._sides[number] = sides
        for side in sides:
            self._tickets.append(side)
            self._tell(Request(len(self._tickets) - 1, side.models), now, jobs)

    def _tell(self, event: Event, now: float, jobs: Sequence[Job]) -> None:
        self._note(event, now)
        for effect in self.policy.handle(event, now):
            self._do(effect, now, jobs)

    def _note(self, event: Event, now: float) -> None:
        match event:
            case Loaded(name) | Woken(name):
                self._move(name, Residency.AWAKE, now)
            case Slept(name):
                self._move(name, Residency.ASLEEP, now)
            case Stopped(name):
                self._move(name, Residency.COLD, now)
            case Release(ticket, models):
                self._live -= {(ticket, name) for name in models or ()}
            case _:
                pass

    def _do(self, effect: Effect, now: float, jobs: Sequence[Job]) -> None:
        match effect:
            case Load(name):
                self.outcome.loads += 1
                self._begin(name, Residency.LOADING, Loaded(name), self.pool.costs.cold_s, now)
            case Wake(name):
                self.outcome.wakes += 1
                self._begin(name, Residency.WAKING, Woken(name), self.pool.costs.wake_s, now)
            case Sleep(name):
                self._begin(name, Residency.FALLING_ASLEEP, Slept(name), self.pool.costs.sleep_s, now)
            case Stop(name):
                self._begin(name, Residency.STOPPING, Stopped(name), self.pool.costs.stop_s, now)
            case Grant(ticket):
                self._granted(ticket, now, jobs)
            case Refuse(ticket):
                job = self._tickets[ticket].job
                self.outcome.waits_s[job] = now - jobs[job].at
                self.outcome.refused += 1
            case _:
                pass

    def _begin(self, name: str, to: Residency, ends: Event, takes_s: float, now: float) -> None:
        assert not any(r in IN_TRANSITION for r in self.at.values()), f"{name}: two transitions at once"
        if to not in COMING_UP:
            assert all(name != used for _, used in self._live), f"{name} is in use"
            self.outcome.swaps += self.at[name] is Residency.AWAKE
        self._move(name, to, now)
        held = sum(r not in (Residency.COLD, Residency.ASLEEP) for r in self.at.values())
        assert held <= self.pool.room, f"{name}: no room"
        self.outcome.transition_s += takes_s
        self._later(now + takes_s, ends)

    def _granted(self, number: int, now: float, jobs: Sequence[Job]) -> None:
        ticket = self._tickets[number]
        assert all(self.at[m] is Residency.AWAKE for m in ticket.models), "granted, but not awake"
        for name, takes_s in ticket.service_s.items():
            self._live.add((number, name))
            self._later(now + takes_s, Release(number, frozenset({name})))
        ticket.granted_at = now
        sides = [side.granted_at for side in self._sides[ticket.job]]
        if not any(math.isnan(at) for at in sides):
            self.outcome.waits_s[ticket.job] = now - jobs[ticket.job].at
            self.outcome.finished += 1
            self.outcome.apart_s[ticket.job] = now - min(sides)

    def _move(self, name: str, to: Residency, now: float) -> None:
        self.outcome.log.append((now, name, to))
        self.at[name] = move(name, self.at[name], to)
