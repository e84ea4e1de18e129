"""A world around the core: it carries out what the core orders, and checks each order against books of its own.

It knows what it was told to do, not what the core thinks; of the core's state it reads only which models drain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from arena_server.pool.core import PoolCore
from arena_server.pool.events import (
    Close,
    Crashed,
    Effect,
    Event,
    Grant,
    Load,
    Loaded,
    LoadFailed,
    ModelSpec,
    Refusal,
    Refuse,
    Release,
    Request,
    Stop,
    Stopped,
    Tick,
)
from arena_server.pool.ledger import Budget
from arena_server.pool.residency import Residency
from arena_server.pool.state import UNMEASURED_LOAD_S, Limits

COLD, LOADING, AWAKE, STOPPING = Residency.COLD, Residency.LOADING, Residency.AWAKE, Residency.STOPPING


class Violation(AssertionError):
    """The core broke a rule."""


def require(rule_is_kept: bool, complaint: str) -> None:
    if not rule_is_kept:
        raise Violation(complaint)


@dataclass(slots=True)
class Ticket:
    """What became of one request."""

    models: frozenset[str]
    asked_at: float
    ahead: int  # how many waited already
    granted_at: float | None = None


@dataclass(slots=True)
class Side:
    """One model as the world sees it (a failed one is cold)."""

    spec: ModelSpec
    at: Residency = COLD
    since: float = 0.0
    last_used: float = 0.0
    load_s: float = 0.0
    failing: bool = False
    owed: set[int] = field(default_factory=set)  # who waited for it when it came up, while none of them was granted
    drains: bool = False


class World:
    """Drive it with the methods named after events; `now` is set by hand, `effects` are those of the last event."""

    def __init__(
        self, specs: Iterable[ModelSpec], budget: Budget, limits: Limits | None = None, core: type[PoolCore] = PoolCore
    ) -> None:
        self.limits = limits or Limits()
        self.budget = budget
        self.models = {spec.name: Side(spec) for spec in specs}
        self.core = core([m.spec for m in self.models.values()], budget, self.limits)
        self.now = 0.0
        self.effects: list[Effect] = []
        self.tickets: dict[int, Ticket] = {}
        self.waiting: dict[int, frozenset[str]] = {}  # oldest first
        self.live: dict[int, frozenset[str]] = {}  # granted, not released; less the models that crashed under it
        self.refused: dict[int, Refuse] = {}
        self.evictor: int | None = None  # the oldest that lacks a model
        self.evictor_since = 0.0
        self.closed = False
        self.broken = False  # a rule was broken: what follows means nothing

    # Events

    def request(self, *names: str) -> int:
        ticket = len(self.tickets) + 1
        models = frozenset(names)
        self.tickets[ticket] = Ticket(models, self.now, len(self.waiting))
        self.waiting[ticket] = models
        self._send(Request(ticket, models))
        return ticket

    def release(self, ticket: int) -> None:
        """Done with, or given up; a ticket that was refused needs neither."""
        if ticket in self.refused:
            return
        for name in self.live.pop(ticket, ()):
            self.models[name].last_used = self.now
        self._leave(ticket)
        self._send(Release(ticket))

    def loaded(self, name: str) -> None:
        model = self.models[name]
        model.load_s = self.now - model.since
        model.owed = {ticket for ticket, names in self.waiting.items() if name in names}
        model.at, model.last_used = AWAKE, self.now
        self._send(Loaded(name))

    def load_failed(self, name: str, reason: str = "out of memory") -> None:
        self.models[name].failing = True
        self._send(LoadFailed(name, reason))

    def crashed(self, name: str, reason: str = "killed") -> None:
        if self.models[name].at is AWAKE:
            self.models[name].failing = True
            self.models[name].owed.clear()
        self.live = {ticket: names - {name} for ticket, names in self.live.items()}
        self._send(Crashed(name, reason))

    def stopped(self, name: str) -> None:
        self.models[name].at = COLD
        self._send(Stopped(name))

    def tick(self, after_s: float = 0.0, until: float = 0.0) -> None:
        """Time passes; before the deadline that the core named, nothing may come of it."""
        deadline = self.deadline()
        self.now = max(self.now + after_s, until)
        self._send(Tick())
        if self.effects and self.now < deadline:
            self.broken = True
            raise Violation(f"the next deadline was {deadline}, but at {self.now} came {self.effects}")

    def close(self) -> None:
        self.closed = True
        self._send(Close())

    # What is true

    def at(self, *residencies: Residency) -> list[str]:
        """The models that are at one of these."""
        return [name for name, m in self.models.items() if m.at in residencies]

    def granted(self, ticket: int) -> bool:
        return self.tickets[ticket].granted_at is not None

    def deadline(self) -> float:
        return self.core.next_deadline(self.now)

    def fits(self, names: Iterable[str]) -> bool:
        """Whether these can be awake together, beside what is pinned."""
        pinned = {name for name, m in self.models.items() if m.spec.pinned}
        return not self._short_of({*names, *pinned}, beside=())

    def cost_s(self, names: Iterable[str]) -> float:
        return sum(m.load_s or UNMEASURED_LOAD_S for m in (self.models[n] for n in names) if m.at is not AWAKE)

    def _lacks(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self.models[name].at in (COLD, STOPPING)]

    def _first_lacking(self) -> int | None:
        return next((ticket for ticket, names in self.waiting.items() if self._lacks(names)), None)

    def _short_of(self, wanted: Iterable[str], beside: Iterable[str]) -> set[int | str]:
        """The devices (and perhaps 'places') that are too small for these together."""
        names = {*wanted, *beside}
        short: set[int | str] = set()
        for device, budget in self.budget.device_bytes.items():
            if sum(self.models[name].spec.footprint.get(device, 0) for name in names) > budget:
                short.add(device)
        if self.budget.max_awake is not None and len(names) > self.budget.max_awake:
            short.add("places")
        return short

    def _in_transition(self) -> set[int]:
        return {d for name in self.at(LOADING, STOPPING) for d in self.models[name].spec.footprint}

    def _patience_is_over(self, evictor: int) -> bool:
        """Whether the evictor has been that for as long as it has to bear with busy models."""
        since = self.evictor_since if evictor == self.evictor else self.now
        patience = self.limits.patience_s
        return self.now >= since + (self.cost_s(self.waiting[evictor]) if patience is None else patience)

    # Checks

    def _send(self, event: Event) -> None:
        self.broken = True
        self._check(event)
        self.broken = False

    def _check(self, event: Event) -> None:
        evictor = self.evictor
        self.effects = self.core.handle(event, self.now)
        granted: set[str] = set()
        for effect in self.effects:
            match effect:
                case Load(name):
                    self._load(name)
                case Stop(name):
                    self._stop(name)
                case Grant(ticket):
                    granted |= self.waiting.get(ticket, frozenset())
                    self._grant(ticket)
                case Refuse(ticket):
                    self._refuse(ticket, effect)
        if (first := self._first_lacking()) != self.evictor:
            self.evictor, self.evictor_since = first, self.now
        self._check_drains(granted if evictor == first else set())
        self._check_waiters()
        for name, model in self.models.items():
            require(not model.failing, f"{name} failed and was not stopped")

    def _load(self, name: str) -> None:
        model = self.models[name]
        require(model.at is COLD, f"illegal: {name} loads while {model.at}")
        require(not self.closed, f"{name} loads though the server is closing")
        require(self._in_transition().isdisjoint(model.spec.footprint), f"two transitions on the devices of {name}")
        held = [*self.at(LOADING, AWAKE, STOPPING), name]
        require(not self._short_of(held, beside=()), f"over budget: {held} do not fit together")
        older = []
        for names in self.waiting.values():
            if name in names:
                break
            older += self._lacks(names)
        else:
            raise Violation(f"{name} loads for nobody")
        short = self._short_of(older, beside=held)
        require(short.isdisjoint({*model.spec.footprint, "places"}), f"{name} takes room that an older waiter needs")
        model.at, model.since = LOADING, self.now

    def _stop(self, name: str) -> None:
        model = self.models[name]
        if model.failing:
            require(model.at in (LOADING, AWAKE), f"illegal: {name} stops while {model.at}")
        else:
            require(model.at is AWAKE, f"illegal: {name} stops while {model.at}")
            require(not model.spec.pinned, f"{name} is pinned and was stopped")
            require(all(name not in names for names in self.live.values()), f"{name} was stopped under a lease")
            require(self._in_transition().isdisjoint(model.spec.footprint), f"two transitions on the devices of {name}")
            ttl = model.spec.idle_ttl_s
            wanted = any(name in names for names in self.waiting.values())
            if wanted or ttl is None or self.now < model.last_used + ttl:
                self._check_victim(name, leaving=self.at(STOPPING))
        model.at, model.failing, model.drains = STOPPING, False, False
        model.owed.clear()

    def _check_victim(self, name: str, leaving: Sequence[str]) -> None:
        """That this model has to leave, even when all those `leaving` are gone."""
        evictor = self._first_lacking()
        if evictor is None:
            raise Violation(f"{name} was evicted for nobody")
        counted_on = {n for ticket, names in self.waiting.items() if ticket <= evictor for n in names}
        require(name not in counted_on, f"{name} was evicted though an older waiter, or the evictor, counts on it")
        stay = [n for n in self.at(LOADING, AWAKE, STOPPING) if n == name or n not in leaving]
        short = self._short_of(self._lacks(self.waiting[evictor]), beside=stay)
        model = self.models[name]
        require(not short.isdisjoint({*model.spec.footprint, "places"}), f"{name} was evicted in vain")
        require(not model.owed or self._patience_is_over(evictor), f"{name} was evicted unserved")

    def _grant(self, ticket: int) -> None:
        require(ticket in self.waiting, f"ticket {ticket} was granted though it did not wait")
        names = self.waiting[ticket]
        require(all(self.models[n].at is AWAKE for n in names), f"ticket {ticket} was granted though not all are awake")
        for name in names:
            self.models[name].last_used = self.now
            if ticket in self.models[name].owed:
                self.models[name].owed.clear()
        self._leave(ticket)
        self.live[ticket] = names
        self.tickets[ticket].granted_at = self.now

    def _refuse(self, ticket: int, refuse: Refuse) -> None:
        require(ticket in self.waiting, f"ticket {ticket} was refused though it did not wait")
        ask = self.tickets[ticket]
        justified = {
            Refusal.CLOSING: self.closed,
            Refusal.NEVER_FITS: not self.fits(ask.models),
            Refusal.QUEUE_FULL: ask.ahead >= self.limits.max_queue,
            Refusal.WAIT_LIMIT: self.now >= ask.asked_at + self.limits.max_wait_s,
            Refusal.UNAVAILABLE: any(self.core.models[name].error for name in ask.models),
        }
        require(justified[refuse.refusal], f"ticket {ticket} was refused without cause: {refuse}")
        self._leave(ticket)
        self.refused[ticket] = refuse

    def _leave(self, ticket: int) -> None:
        self.waiting.pop(ticket, None)
        for model in self.models.values():
            model.owed.discard(ticket)

    def _check_drains(self, granted: set[str]) -> None:
        draining = [name for name, m in self.core.models.items() if m.draining is not None]
        for name, model in self.models.items():
            if name in draining and not self.closed:
                require(model.at is AWAKE and not model.spec.pinned, f"{name} drains while {model.at}, or pinned")
                require(not model.drains or name not in granted, f"{name} was granted while it drained")
                others = [n for n in draining if n != name]
                self._check_victim(name, leaving=[*others, *self.at(STOPPING)])
                if not model.drains and any(name in names for names in self.live.values()):
                    assert self.evictor is not None
                    require(self._patience_is_over(self.evictor), f"{name} was busy and drained without patience")
            model.drains = name in draining

    def _check_waiters(self) -> None:
        for ticket, names in self.waiting.items():
            late = self.now >= self.tickets[ticket].asked_at + self.limits.max_wait_s
            require(not late, f"ticket {ticket} waits longer than the wait limit")
            ready = all(self.models[n].at is AWAKE and not self.models[n].drains for n in names)
            require(not ready, f"ticket {ticket} waits though all its models are awake")
