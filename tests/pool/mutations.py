"""Cores with one rule broken, each of which the tests have to catch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from arena_server.pool.core import PoolCore
from arena_server.pool.events import Away, Effect, Event, Grant, Limits, ModelSpec, Refusal, Request
from arena_server.pool.ledger import Budget, Footprint, Holding, Ledger, Shortage
from arena_server.pool.policy import Victims
from arena_server.pool.queue import Waiter, Waiters
from arena_server.pool.residency import Residency
from arena_server.pool.state import Model


class HoldAndWait(PoolCore):
    """The members of a set are leased one by one, as they come up."""

    def _settle(self, now: float) -> None:
        for waiter in self.queue:
            for model in (self.models[name] for name in waiter.models):
                if model.ready:
                    model.leases.add(waiter.ticket)
        super()._settle(now)

    def _release(self, ticket: int, names: frozenset[str] | None, now: float) -> None:
        self._let_go(ticket)
        super()._release(ticket, names, now)

    def _refuse(self, ticket: int, refusal: Refusal, detail: str, retry_after_s: float | None = None) -> None:
        self._let_go(ticket)
        super()._refuse(ticket, refusal, detail, retry_after_s)

    def _let_go(self, ticket: int) -> None:
        if ticket not in self.leases:
            for model in self.models.values():
                model.leases.discard(ticket)


class Boundless(Ledger):
    """A ledger that never lacks anything."""

    def copy(self, without: Iterable[str] = ()) -> Ledger:
        return Boundless(self.budget, dict(super().copy(without).held), self.outside)

    def shortage(self, wanted: Mapping[str, Holding]) -> Shortage:
        return Shortage({})


class NoReservation(PoolCore):
    """Nothing is ever short."""

    def __init__(self, specs: Iterable[ModelSpec], budget: Budget, limits: Limits) -> None:
        super().__init__(specs, budget, limits)
        self.ledger = Boundless(budget)


class DrainIgnored(PoolCore):
    """A model that drains for somebody is leased nevertheless."""

    def _ready(self, model: Model) -> bool:
        return model.residency is Residency.AWAKE and model.dismissed is None


class LeakOnCancel(PoolCore):
    """Who gives up while waiting stays in the queue."""

    def _release(self, ticket: int, names: frozenset[str] | None, now: float) -> None:
        if ticket in self.leases:
            super()._release(ticket, names, now)


class LeakAtGrant(PoolCore):
    """Who gives up in the moment of the grant keeps its lease."""

    just_granted: Collection[int] = ()

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = super().handle(event, now)
        self.just_granted = [effect.ticket for effect in effects if isinstance(effect, Grant)]
        return effects

    def _release(self, ticket: int, names: frozenset[str] | None, now: float) -> None:
        if ticket not in self.just_granted:
            super()._release(ticket, names, now)


class AnyoneEvicts(PoolCore):
    """Every waiter that lacks a model evicts."""

    def _serve_queue(self, now: float) -> None:
        oldest = self._evictor
        for waiter in list(self.queue):
            self._evictor = waiter.ticket
            super()._serve_queue(now)
        self._evictor = oldest


class EvictsBusy(PoolCore):
    """A victim is put away without waiting for its leases."""

    def _evict_for(self, waiter: Waiter, needs: Sequence[Model], counted_on: set[str], now: float) -> None:
        super()._evict_for(waiter, needs, counted_on, now)
        for model in self.models.values():
            if model.draining:
                model.leases.clear()
        super()._evict_for(waiter, needs, counted_on, now)


class NoPatience(PoolCore):
    """A busy victim drains at once."""

    def _patience(self, needs: Sequence[Model], victims: Victims) -> float:
        return 0.0


class EarlyRelease(PoolCore):
    """Memory counts as free when the stop is ordered, not when it is complete."""

    def _start_stop(self, model: Model, why: str, now: float, *, orderly: bool = True) -> None:
        super()._start_stop(model, why, now, orderly=orderly)
        self.ledger.release(model.name)

    def _after_transitions(self) -> Ledger:
        self._hold_nothing()
        return super()._after_transitions()

    def _stopped(self, model: Model, now: float) -> None:
        self._hold_nothing()
        super()._stopped(model, now)

    def _hold_nothing(self) -> None:
        for model in self.models.values():
            if model.residency is Residency.STOPPING:
                self.ledger.held.setdefault(model.name, Holding({}, place=False))


class NoProtectionOfTheUnserved(PoolCore):
    """A model that came up may leave before it served anybody."""

    def _came_up(self, model: Model, now: float) -> None:
        super()._came_up(model, now)
        model.owed.clear()


class NoProtectionOfTheCountedOn(PoolCore):
    """What an older waiter, or the evictor itself, counts on may leave."""

    def _evict_for(self, waiter: Waiter, needs: Sequence[Model], counted_on: set[str], now: float) -> None:
        super()._evict_for(waiter, needs, set(), now)


class TransitionsOverlap(PoolCore):
    """Nobody minds what else goes on on a device."""

    def _at_rest(self, footprint: Footprint) -> bool:
        return True


class RoomIsTaken(PoolCore):
    """The young load into any free room."""

    def _start(self, needs: Sequence[Model], claimed: set[int], counted_on: set[str], now: float) -> None:
        super()._start(needs, claimed, counted_on, now)
        for waiter in self.queue:
            super()._start(self._needs(waiter), claimed, counted_on, now)


class DeadlinesMissed(PoolCore):
    """The core asks for a Tick too late."""

    def next_deadline(self, now: float) -> float:
        return super().next_deadline(now) + 1.0


class ResidualForgotten(PoolCore):
    """Who sleeps is taken to hold nothing of its devices."""

    def _slept(self, model: Model, asleep: Footprint | None, host_bytes: int | None, now: float) -> None:
        super()._slept(model, asleep, host_bytes, now)
        held = self.ledger.held[model.name]
        self.ledger.held[model.name] = Holding({}, held.host_bytes, place=False)


class HostMemoryForgotten(PoolCore):
    """Nobody asks whether there is RAM to sleep in."""

    def __init__(self, specs: Iterable[ModelSpec], budget: Budget, limits: Limits) -> None:
        super().__init__(specs, Budget(budget.device_bytes, budget.max_awake), limits)


class HostMemoryFreedByWaking(PoolCore):
    """The RAM of a sleeper counts as free once it is awake again."""

    def _came_up(self, model: Model, now: float) -> None:
        model.host_bytes = 0
        super()._came_up(model, now)


class SleepsUnderLease(PoolCore):
    """An operator's order does not wait for running requests."""

    def _dismiss(self, model: Model, how: Away, why: str, now: float) -> None:
        model.leases.clear()
        super()._dismiss(model, how, why, now)


class LeasedThoughDismissed(PoolCore):
    """A model that was told to leave takes new requests."""

    def _ready(self, model: Model) -> bool:
        return model.residency is Residency.AWAKE and model.draining is None


class NeedlessStops(PoolCore):
    """Every sleeper is stopped when anybody needs room."""

    def _stop_sleepers(self, victims: Victims, why: str, now: float) -> None:
        sleepers = [m.name for m in self.models.values() if m.residency is Residency.ASLEEP]
        counted_on = {name for waiter in self.queue for name in waiter.models}
        super()._stop_sleepers(Victims(stop=tuple(n for n in sleepers if n not in counted_on)), why, now)


class OutsideIgnored(PoolCore):
    """What others hold of a device counts for nothing."""

    def _take(self, event: Event, now: float) -> None:
        super()._take(event, now)
        self.ledger.outside = {}


class RetriesInFullHouse(PoolCore):
    """A load that ran out of memory is tried again without making room."""

    def _load_failed(self, model: Model, reason: str, out_of_memory: bool, now: float) -> None:
        super()._load_failed(model, reason, out_of_memory, now)
        model.room_first = False


class WaitsForEver(PoolCore):
    """Nobody minds how long a ticket has waited."""

    def _settle(self, now: float) -> None:
        overdue = [w for w in self.queue if now >= w.since + self.limits.max_wait_s]
        for waiter in overdue:
            waiter.since = math.inf
        super()._settle(now)
        for waiter in overdue:
            waiter.since = -math.inf


class SidesHeldTogether(PoolCore):
    """A side of a pair that is done holds its model until the other is."""

    def _release(self, ticket: int, names: frozenset[str] | None, now: float) -> None:
        if names is None or names >= self.leases.get(ticket, names):
            super()._release(ticket, None, now)


class OneLongQueue(PoolCore):
    """Nobody's turn comes before that of one who came earlier."""

    def _take(self, event: Event, now: float) -> None:
        super()._take(replace(event, asker="") if isinstance(event, Request) else event, now)


class PassesTheHead(PoolCore):
    """A newcomer's first turn comes before everybody's."""

    def __init__(self, specs: Iterable[ModelSpec], budget: Budget, limits: Limits) -> None:
        super().__init__(specs, budget, limits)
        self.queue = _InFront()


class _InFront(Waiters):
    def add(self, waiter: Waiter, behind: Waiter | None = None) -> None:
        super().add(waiter, behind)
        if all(w.asker != waiter.asker for w in self if w is not waiter):
            self._order.remove(waiter)
            waiter.turn = self._order[0].turn - 1 if self._order else 0
            self._order.insert(0, waiter)


class TurnsForgotten(PoolCore):
    """Who asks again once it was served is a newcomer each time."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = super().handle(event, now)
        self.queue._had.clear()
        return effects
