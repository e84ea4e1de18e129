"""A world around the core: it carries out what the core orders, and checks each order against books of its own.

It knows what it was told to do, not what the core thinks; of the core's state it reads only which models drain, and
who waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

from arena_server.pool.core import PoolCore
from arena_server.pool.events import (
    Away,
    Close,
    Crashed,
    Drains,
    Effect,
    Event,
    Grant,
    Limits,
    Load,
    Loaded,
    LoadFailed,
    ModelSpec,
    Moved,
    Outside,
    Pin,
    PutAway,
    Reconfigure,
    Refusal,
    Refuse,
    Release,
    Removed,
    Replaced,
    Request,
    Reset,
    Sleep,
    SleepFailed,
    Slept,
    Stop,
    Stopped,
    Tick,
    Wake,
    WakeFailed,
    Woken,
)
from arena_server.pool.ledger import NOTHING, Budget, Footprint, Holding
from arena_server.pool.residency import Residency
from arena_server.pool.state import UNMEASURED_LOAD_S

from .turns import Turns

COLD, LOADING, AWAKE, STOPPING = Residency.COLD, Residency.LOADING, Residency.AWAKE, Residency.STOPPING
FALLING_ASLEEP, ASLEEP, WAKING = Residency.FALLING_ASLEEP, Residency.ASLEEP, Residency.WAKING
UNDER_WAY = (LOADING, FALLING_ASLEEP, WAKING, STOPPING)


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
    ahead: int  # how many waited already, and came in before it since
    asker: str
    granted_at: float | None = None
    ended: set[str] = field(default_factory=set)  # those of its models that it gave back one by one


@dataclass(slots=True)
class Side:
    """One model as the world sees it (a failed one is cold)."""

    spec: ModelSpec
    at: Residency = COLD
    since: float = 0.0
    last_used: float = 0.0
    load_s: float = 0.0
    wake_s: float = 0.0
    failing: bool = False
    oom: bool = False  # its load ran out of memory: before the next, all idle ones are to leave
    dismissed: Away | None = None
    owed: set[int] = field(default_factory=set)  # who waited for it when it came up, while none of them was granted
    drains: bool = False
    held: Holding = NOTHING
    asleep_bytes: Footprint | None = None
    host_bytes: int = 0
    sleep_host_bytes: int | None = None
    goes: bool = False  # the configuration knows it no more, or otherwise
    successor: ModelSpec | None = None

    @property
    def awake(self) -> Holding:
        return _awake(self.spec, self.host_bytes)

    @property
    def asleep(self) -> Holding:
        host = self.spec.host_bytes if self.sleep_host_bytes is None else self.sleep_host_bytes
        rest = self.spec.asleep if self.asleep_bytes is None else self.asleep_bytes
        return Holding(rest, max(host, self.host_bytes), place=False)

    @property
    def between(self) -> Holding:
        """The larger of both ends."""
        sleeping = self.asleep
        devices = {*self.spec.footprint, *sleeping.device_bytes}
        larger = {d: max(self.spec.footprint.get(d, 0), sleeping.device_bytes.get(d, 0)) for d in devices}
        return Holding(larger, max(self.host_bytes, sleeping.host_bytes), place=bool(self.spec.footprint))


def _awake(spec: ModelSpec, host_bytes: int = 0) -> Holding:
    """What another server runs takes no place."""
    return Holding(spec.footprint, host_bytes, place=bool(spec.footprint))


class World:
    """Drive it with the methods named after events; `now` is set by hand, `effects` are those of the last event."""

    def __init__(
        self, specs: Iterable[ModelSpec], budget: Budget, limits: Limits | None = None, core: type[PoolCore] = PoolCore
    ) -> None:
        self.limits = limits or Limits()
        self.budget = budget
        self.outside_bytes: Footprint = {}
        self.models = {spec.name: Side(spec) for spec in specs}
        self.core = core([m.spec for m in self.models.values()], budget, self.limits)
        self.now = 0.0
        self.effects: list[Effect] = []
        self.tickets: dict[int, Ticket] = {}
        self.waiting: dict[int, frozenset[str]] = {}  # in the order of their turns
        self.turns = Turns()
        self.newcomer: int | None = None  # who asks with the event at hand
        self.live: dict[int, frozenset[str]] = {}  # granted, not released; less the models that crashed under it
        self.refused: dict[int, Refuse] = {}
        self.evictor: int | None = None  # the oldest that lacks a model
        self.evictor_since = 0.0
        self.closed = False
        self.broken = False  # a rule was broken: what follows means nothing
        self.stopped_by_order: set[str] = set()

    # Events

    def request(self, *names: str, asker: str = "") -> int:
        ticket = len(self.tickets) + 1
        models = frozenset(names)
        drains = any(m.drains for m in self.models.values())
        behind = self.turns.come(ticket, asker, self.evictor if drains else None)
        for passed in behind:
            self.tickets[passed].ahead += 1
        self.tickets[ticket] = Ticket(models, self.now, len(self.waiting) - len(behind), asker)
        self.waiting = {t: self.tickets[t].models for t in self.turns.order}
        self.newcomer, ready = ticket, self._ready(models)
        if ready:
            self.turns.forget(ticket)
        self._send(Request(ticket, models, asker))
        self.newcomer = None
        return ticket

    def release(self, ticket: int) -> None:
        """Done with, or given up; a ticket that was refused needs neither."""
        if ticket in self.refused or self.tickets[ticket].ended == self.tickets[ticket].models:
            self.live.pop(ticket, None)
            return
        for name in self.live.pop(ticket, ()):
            self.models[name].last_used = self.now
        self._leave(ticket, served=ticket == self.evictor)
        self._send(Release(ticket))

    def release_side(self, ticket: int, name: str) -> None:
        """Done with one of a granted ticket's models."""
        if name in self.live[ticket]:
            self.models[name].last_used = self.now
        self.live[ticket] -= {name}
        self.tickets[ticket].ended.add(name)
        self._send(Release(ticket, frozenset({name})))
        if self.tickets[ticket].ended == self.tickets[ticket].models:
            del self.live[ticket]

    def loaded(self, name: str) -> None:
        self.models[name].load_s = self.now - self.models[name].since
        self._came_up(name)
        self._send(Loaded(name))

    def load_failed(self, name: str, reason: str = "broken", out_of_memory: bool = False) -> None:
        self.models[name].failing = True
        self.models[name].oom = out_of_memory
        self._send(LoadFailed(name, reason, out_of_memory))

    def slept(self, name: str, asleep: Footprint | None = None, host_bytes: int | None = None) -> None:
        model = self.models[name]
        if asleep is not None:
            model.asleep_bytes = asleep
        if host_bytes is not None:
            model.sleep_host_bytes = model.host_bytes = host_bytes
        model.at, model.held = ASLEEP, model.asleep
        if model.dismissed is Away.ASLEEP:
            model.dismissed = None
        self._send(Slept(name, asleep, host_bytes))

    def sleep_failed(self, name: str, reason: str = "it hung") -> None:
        self.models[name].failing = True
        self._send(SleepFailed(name, reason))

    def woken(self, name: str) -> None:
        self.models[name].wake_s = self.now - self.models[name].since
        self._came_up(name)
        self._send(Woken(name))

    def wake_failed(self, name: str, reason: str = "garbage") -> None:
        self.models[name].failing = True
        self._send(WakeFailed(name, reason))

    def crashed(self, name: str, reason: str = "killed") -> None:
        if self.models[name].at in (AWAKE, FALLING_ASLEEP, ASLEEP, WAKING):
            self.models[name].failing = True
            self.models[name].owed.clear()
        self.live = {ticket: names - {name} for ticket, names in self.live.items()}
        self._send(Crashed(name, reason))

    def stopped(self, name: str) -> None:
        model = self.models[name]
        model.at, model.held, model.host_bytes, model.dismissed = COLD, NOTHING, 0, None
        self.stopped_by_order.discard(name)
        self._send(Stopped(name))

    def ends(self, name: str) -> None:
        """What is under way with the model ends well."""
        how: dict[Residency, Callable[[str], None]] = {
            LOADING: self.loaded,
            FALLING_ASLEEP: self.slept,
            WAKING: self.woken,
            STOPPING: self.stopped,
        }
        how[self.models[name].at](name)

    def outside(self, device_bytes: Footprint) -> None:
        self.outside_bytes = device_bytes
        self._send(Outside(device_bytes))

    def put_away(self, name: str, how: Away) -> None:
        model = self.models[name]
        if model.dismissed is Away.STOPPED:
            pass  # that holds
        elif model.at in (AWAKE, FALLING_ASLEEP) or (model.at is ASLEEP and how is Away.STOPPED):
            model.dismissed = how
        elif model.at in (LOADING, WAKING) and how is Away.STOPPED:
            self.stopped_by_order.add(name)
        self._send(PutAway(name, how))

    def pin(self, name: str, pinned: bool) -> None:
        model = self.models[name]
        model.spec = replace(model.spec, pinned=pinned)
        self._send(Pin(name, pinned))

    def reset(self, name: str) -> None:
        self._send(Reset(name))

    def reconfigure(self, specs: Sequence[ModelSpec], changed: Iterable[str]) -> None:
        changed = frozenset(changed)
        names = {spec.name: spec for spec in specs}
        for name, model in self.models.items():
            if name not in names or name in changed or model.goes:
                model.goes, model.successor = True, names.get(name)
                if model.at in (LOADING, WAKING):
                    self.stopped_by_order.add(name)
                elif model.at in (AWAKE, FALLING_ASLEEP, ASLEEP):
                    model.dismissed = Away.STOPPED
            else:
                model.spec = names[name]
        for name, spec in names.items():
            self.models.setdefault(name, Side(spec))
        self._send(Reconfigure(specs, changed, self.budget, self.limits))

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
        specs = {name: m.successor if m.goes else m.spec for name, m in self.models.items()}
        pinned = {name for name, spec in specs.items() if spec and spec.pinned}
        together = [_awake(spec) for name in {*names, *pinned} if (spec := specs.get(name))]
        return not self._short_of(together, outside={})

    def least_cost_s(self, names: Iterable[str]) -> float:
        """The least that bringing up what lacks of these is taken to cost."""
        costs = [1e9]
        for model in (self.models[n] for n in self._lacks(names)):
            costs.append(model.load_s or UNMEASURED_LOAD_S)
            if model.spec.sleep_level:
                costs.append(model.wake_s or 2.0)
        return min(costs)

    def _came_up(self, name: str) -> None:
        model = self.models[name]
        model.owed = {ticket for ticket, names in self.waiting.items() if name in names}
        model.at, model.last_used, model.held, model.oom = AWAKE, self.now, model.awake, False

    def _lacks(self, names: Iterable[str]) -> list[str]:
        return [
            name
            for name in names
            if self.models[name].at in (COLD, FALLING_ASLEEP, ASLEEP, STOPPING) or self.models[name].dismissed
        ]

    def _first_lacking(self) -> int | None:
        """The first for which room is to be made, or used."""
        for ticket, names in self.waiting.items():
            if any(self.models[n].spec.footprint for n in self._lacks(names)) and not self._hopeless(names):
                return ticket
        return None

    def _hopeless(self, names: Iterable[str]) -> bool:
        """Whether others hold so much that these could not come up beside what is pinned alone."""
        pinned = [name for name, m in self.models.items() if m.spec.pinned]
        if not any(self.models[name].spec.footprint for name in names):
            return False
        short = self._short_of(_awake(self.models[name].spec) for name in {*names, *pinned})
        devices = {d for name in {*names, *pinned} for d in self.models[name].spec.footprint}
        return bool(self.outside_bytes) and not short.isdisjoint({*devices, "places"})

    def _holdings(self, changed: dict[str, Holding]) -> list[Holding]:
        """What all hold, those in `changed` instead of what they hold now."""
        return list(({name: m.held for name, m in self.models.items()} | changed).values())

    def _short_of(self, holdings: Iterable[Holding], outside: Footprint | None = None) -> set[int | str]:
        """What there is too little of for these together: devices, 'host', 'places'."""
        all_of_them = list(holdings)
        outside = self.outside_bytes if outside is None else outside
        short: set[int | str] = set()
        for device, budget in self.budget.device_bytes.items():
            if sum(h.device_bytes.get(device, 0) for h in all_of_them) + outside.get(device, 0) > budget:
                short.add(device)
        if self.budget.host_bytes is not None and sum(h.host_bytes for h in all_of_them) > self.budget.host_bytes:
            short.add("host")
        if self.budget.max_awake is not None and sum(h.place for h in all_of_them) > self.budget.max_awake:
            short.add("places")
        return short

    def _in_transition(self) -> set[int]:
        return {d for name in self.at(*UNDER_WAY) for d in self.models[name].spec.footprint}

    def _patience_is_over(self, evictor: int) -> bool:
        """Whether the evictor has been that for as long as it has to bear with busy models."""
        since = self.evictor_since if evictor == self.evictor else self.now
        patience = self.limits.patience_s
        return self.now >= since + (self.least_cost_s(self.waiting[evictor]) if patience is None else patience)

    # Checks

    def _told(self, event: Event) -> list[Effect]:
        """Tell the core as the pool does: what may be granted at once is asked for so."""
        if not isinstance(event, Request):
            return self.core.handle(event, self.now)
        before = deepcopy(self.core)
        if not self.core.grant_at_once(event.ticket, event.models, self.now):
            return self.core.handle(event, self.now)
        due = before.handle(Tick(), self.now)
        after = [effect for effect in deepcopy(self.core).handle(Tick(), self.now) if effect not in due]
        require(not after, f"nothing but time follows from a request that is granted at once, and not {after}")
        return [Grant(event.ticket)]

    def _send(self, event: Event) -> None:
        self.broken = True
        self._check(event)
        self.broken = False

    def _check(self, event: Event) -> None:
        evictor = self.evictor
        self.effects = self._told(event)
        granted: set[str] = set()
        for effect in self.effects:
            match effect:
                case Load(name):
                    self._load(name)
                case Wake(name):
                    self._wake(name)
                case Sleep(name):
                    self._sleep(name)
                case Stop(name):
                    self._stop(name)
                case Grant(ticket):
                    granted |= self.waiting.get(ticket, frozenset())
                    self._grant(ticket)
                case Refuse(ticket):
                    self._refuse(ticket, effect)
                case Replaced(name):
                    self._replaced(name)
                case Removed(name):
                    self._removed(name)
                case Moved() | Drains():
                    pass
        self._check_turns([effect.ticket for effect in self.effects if isinstance(effect, Grant)])
        for model in self.models.values():
            if model.at is COLD:
                model.dismissed = None
        if (first := self._first_lacking()) != self.evictor:
            self.evictor, self.evictor_since = first, self.now
        self._check_drains(granted if evictor == first else set())
        self._check_waiters()
        for name, model in self.models.items():
            require(not model.failing, f"{name} failed and was not stopped")
            require(name not in self.stopped_by_order or model.at is STOPPING, f"{name} was to be stopped at once")

    def _load(self, name: str) -> None:
        model = self.models[name]
        require(model.at is COLD, f"illegal: {name} loads while {model.at}")
        self._check_start(name, model.awake)
        if model.oom:
            rest = [n for n, m in self.models.items() if self._is_idle_beside(n, m, name)]
            require(not rest, f"{name} ran out of memory and loads again beside idle {rest}")
        model.at, model.since, model.held, model.oom = LOADING, self.now, model.awake, False

    def _wake(self, name: str) -> None:
        model = self.models[name]
        require(model.at is ASLEEP, f"illegal: {name} wakes while {model.at}")
        self._check_start(name, model.between)
        model.at, model.since, model.held = WAKING, self.now, model.between

    def _check_start(self, name: str, holding: Holding) -> None:
        model = self.models[name]
        require(not self.closed, f"{name} starts though the server is closing")
        require(model.dismissed is None, f"{name} starts though it was told to leave")
        require(self._in_transition().isdisjoint(model.spec.footprint), f"two transitions on the devices of {name}")
        short = self._short_of(self._holdings({name: holding}))
        # What it holds already it may keep, even if others have taken too much beside it.
        held = model.held.device_bytes
        grows: set[int | str] = {d for d, n in holding.device_bytes.items() if n > held.get(d, 0)}
        if holding.place:
            grows.add("places")
        require(short.isdisjoint(grows), f"over budget: no room for {name}")
        older: list[str] = []
        for names in self.waiting.values():
            if self._hopeless(names):
                continue
            if name in names:
                break
            older += self._lacks(names)
        else:
            raise Violation(f"{name} starts for nobody")
        planned = {n: self.models[n].awake for n in older}
        short = self._short_of(self._holdings({**planned, name: holding}))
        require(
            not older or short.isdisjoint(grows),
            f"{name} takes room that an older waiter needs",
        )

    def _is_idle_beside(self, name: str, model: Side, loading: str) -> bool:
        used = any(name in names for names in self.live.values()) or model.owed or model.spec.pinned
        counted_on = False
        for names in self.waiting.values():
            if self._hopeless(names):
                continue
            counted_on = counted_on or name in names
            if loading in names:
                break
        shared = not model.spec.footprint.keys().isdisjoint(self.models[loading].spec.footprint)
        return name != loading and model.at in (AWAKE, ASLEEP) and shared and not used and not counted_on

    def _sleep(self, name: str) -> None:
        model = self.models[name]
        require(model.at is AWAKE, f"illegal: {name} falls asleep while {model.at}")
        require(model.spec.sleep_level > 0, f"{name} cannot sleep")
        require(all(name not in names for names in self.live.values()), f"{name} was put to sleep under a lease")
        self._check_leaves(name)
        short = self._short_of(self._holdings({name: model.between}))
        grows = model.between.host_bytes > model.held.host_bytes
        require("host" not in short or not grows, f"over budget: no host RAM for {name} to sleep")
        model.host_bytes = model.between.host_bytes
        model.at, model.drains, model.held, model.since = FALLING_ASLEEP, False, model.between, self.now
        model.owed.clear()

    def _stop(self, name: str) -> None:
        model = self.models[name]
        if model.failing:
            require(model.at not in (COLD, STOPPING), f"illegal: {name} stops while {model.at}")
        elif name in self.stopped_by_order:
            require(model.at in (LOADING, WAKING), f"illegal: {name} is stopped at once while {model.at}")
        else:
            require(model.at in (AWAKE, ASLEEP), f"illegal: {name} stops while {model.at}")
            require(all(name not in names for names in self.live.values()), f"{name} was stopped under a lease")
            if not self._makes_all_room(name):
                (self._check_leaves if model.at is AWAKE else self._check_sleeper)(name)
        model.at, model.failing, model.drains = STOPPING, False, False
        model.owed.clear()

    def _makes_all_room(self, name: str) -> bool:
        """Whether it leaves for one that ran out of memory."""
        first = self._first_lacking()
        model = self.models[name]
        ooms = [n for n in self.waiting.get(first or 0, ()) if self.models[n].oom]
        idle = any(self._is_idle_beside(name, model, n) for n in ooms)
        return idle and self._in_transition().isdisjoint(model.spec.footprint)

    def _check_leaves(self, name: str) -> None:
        """That an awake model may be put away."""
        model = self.models[name]
        require(self._in_transition().isdisjoint(model.spec.footprint), f"two transitions on the devices of {name}")
        if model.dismissed is not None:
            return
        require(not model.spec.pinned, f"{name} is pinned and was put away")
        ttl = model.spec.idle_ttl_s
        wanted = any(name in names for names in self.waiting.values())
        if wanted or ttl is None or self.now < model.last_used + ttl:
            self._check_victim(name, leaving=self.at(STOPPING))

    def _check_victim(self, name: str, leaving: Sequence[str]) -> None:
        """That this model has to leave, even when all those `leaving` are gone, and every sleeper that may be."""
        evictor = self._first_lacking()
        if evictor is None:
            raise Violation(f"{name} was evicted for nobody")
        counted_on = {n for names in self._up_to(evictor) if not self._hopeless(names) for n in names}
        require(name not in counted_on, f"{name} was evicted though an older waiter, or the evictor, counts on it")
        changed = {n: self.models[n].awake for n in self._lacks(self.waiting[evictor])}
        gone = {n: NOTHING for n, m in self.models.items() if n in leaving or self._could_be_stopped(n, m, counted_on)}
        short = self._short_of(self._holdings({**gone, **changed, name: self.models[name].held}))
        model = self.models[name]
        require(not short.isdisjoint({*model.spec.footprint, "places"}), f"{name} was evicted in vain")
        require(not model.owed or self._patience_is_over(evictor), f"{name} was evicted unserved")

    def _up_to(self, evictor: int | None) -> list[frozenset[str]]:
        """What the evictor and those before it want."""
        order = list(self.waiting)
        return [self.waiting[t] for t in order[: order.index(evictor) + 1]] if evictor is not None else []

    def _could_be_stopped(self, name: str, model: Side, counted_on: set[str]) -> bool:
        if model.dismissed is not None:
            return all(name not in names for names in self.live.values())
        return model.at in (ASLEEP, FALLING_ASLEEP) and not model.spec.pinned and name not in counted_on

    def _check_sleeper(self, name: str) -> None:
        """That a sleeper has to be stopped: for an awake model, or for one that goes to sleep."""
        model = self.models[name]
        require(self._in_transition().isdisjoint(model.spec.footprint), f"two transitions on the devices of {name}")
        if model.dismissed is Away.STOPPED:
            return
        require(not model.spec.pinned, f"{name} is pinned and was stopped")
        evictor = self._first_lacking()
        counted_on = {n for names in self._up_to(evictor) if not self._hopeless(names) for n in names}
        require(name not in counted_on, f"{name} was stopped in its sleep though somebody counts on it")
        changed = dict.fromkeys(self.at(STOPPING), NOTHING)
        if evictor is not None:
            changed |= {n: self.models[n].awake for n in self._lacks(self.waiting[evictor])}
        changed |= {n: self.models[n].asleep for n, m in self.core.models.items() if m.draining is Away.ASLEEP}
        short = self._short_of(self._holdings({**changed, name: model.held}))
        for n, m in self.models.items():
            if m.at is AWAKE and m.spec.idle_ttl_s is not None and self.now >= m.last_used + m.spec.idle_ttl_s:
                changed[n] = m.asleep
        short |= self._short_of(self._holdings({**changed, name: model.held}))
        uses: set[int | str] = {d for d, n in model.held.device_bytes.items() if n} | {"host"}
        require(not short.isdisjoint(uses), f"{name} was stopped in its sleep in vain")

    def _grant(self, ticket: int) -> None:
        require(ticket in self.waiting, f"ticket {ticket} was granted though it did not wait")
        names = self.waiting[ticket]
        require(all(self.models[n].at is AWAKE for n in names), f"ticket {ticket} was granted though not all are awake")
        for name in names:
            require(self.models[name].dismissed is None, f"{name} was granted though it was told to leave")
            self.models[name].last_used = self.now
            if ticket in self.models[name].owed:
                self.models[name].owed.clear()
        self._leave(ticket, served=True)
        self.live[ticket] = names
        self.tickets[ticket].granted_at = self.now

    def _refuse(self, ticket: int, refuse: Refuse) -> None:
        require(ticket in self.waiting, f"ticket {ticket} was refused though it did not wait")
        ask = self.tickets[ticket]
        known = [name for name in ask.models if name in self.core.models]
        justified = {
            Refusal.CLOSING: self.closed,
            Refusal.NEVER_FITS: not self.fits(ask.models),
            Refusal.QUEUE_FULL: self._may_be_crowded_out(ticket),
            Refusal.WAIT_LIMIT: self.now >= ask.asked_at + self.limits.max_wait_s,
            Refusal.UNAVAILABLE: len(known) < len(ask.models)
            or any(self.core.models[name].error or self.core.models[name].removed for name in known)
            or any(name in self.stopped_by_order for name in ask.models),
        }
        require(justified[refuse.refusal], f"ticket {ticket} was refused without cause: {refuse}")
        if ticket == self.newcomer:
            self.turns.forget(ticket)
        self._leave(ticket, served=False)
        self.refused[ticket] = refuse

    def _replaced(self, name: str) -> None:
        model = self.models[name]
        require(model.at is COLD and model.successor is not None, f"{name} was replaced while {model.at}")
        assert model.successor is not None
        self.models[name] = Side(model.successor, last_used=model.last_used)

    def _removed(self, name: str) -> None:
        require(self.models[name].at is COLD, f"{name} was removed while {self.models[name].at}")
        require(all(name not in names for names in self.live.values()), f"{name} was removed under a lease")
        del self.models[name]

    def _leave(self, ticket: int, served: bool) -> None:
        self.waiting.pop(ticket, None)
        self.turns.go(ticket, served=served)
        for model in self.models.values():
            model.owed.discard(ticket)

    def _check_turns(self, granted: Iterable[int]) -> None:
        self.turns.end_event(granted)
        require([w.ticket for w in self.core.queue] == self.turns.order, "the queue is out of order")
        wronged = self.turns.wronged()
        require(wronged is None, f"unfair: {wronged}")

    def _may_be_crowded_out(self, ticket: int) -> bool:
        """Whether the queue is full, and this is a newcomer than whose asker nobody has more, or makes way for one."""
        if len(self.waiting) <= self.limits.max_queue or self.newcomer is None:
            return False
        counts = Counter(self.tickets[t].asker for t in self.waiting)
        asker, most = self.tickets[ticket].asker, max(counts.values())
        if ticket == self.newcomer:
            return counts[asker] == most
        last = [t for t in self.waiting if self.tickets[t].asker == asker][-1]
        return ticket == last and counts[asker] == most > counts[self.tickets[self.newcomer].asker]

    def _check_drains(self, granted: set[str]) -> None:
        draining = [name for name, m in self.core.models.items() if m.draining is not None]
        for name, model in self.models.items():
            drains = name in draining
            require(not (model.drains and drains and name in granted), f"{name} was granted while it drained")
            if drains and not self.closed:
                require(model.at is AWAKE and not model.spec.pinned, f"{name} drains while {model.at}, or pinned")
                others = [n for n in draining if n != name]
                self._check_victim(name, leaving=[*others, *self.at(STOPPING)])
                if not model.drains and any(name in names for names in self.live.values()):
                    assert self.evictor is not None
                    require(self._patience_is_over(self.evictor), f"{name} was busy and drained without patience")
            model.drains = drains

    def _check_waiters(self) -> None:
        for ticket, names in self.waiting.items():
            late = self.now >= self.tickets[ticket].asked_at + self.limits.max_wait_s
            require(not late, f"ticket {ticket} waits longer than the wait limit")
            require(not self._ready(names), f"ticket {ticket} waits though all its models are awake")

    def _ready(self, names: Iterable[str]) -> bool:
        models = [self.models[n] for n in names]
        return all(m.at is AWAKE and not m.drains and m.dismissed is None for m in models)
