"""Cores with one rule broken, each of which the tests have to catch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from arena_server.pool.core import PoolCore
from arena_server.pool.events import Effect, Event, Grant, ModelSpec, Refusal
from arena_server.pool.ledger import Budget, Footprint, Ledger, Shortage
from arena_server.pool.residency import Residency
from arena_server.pool.state import Limits, Model, Waiter


class HoldAndWait(PoolCore):
    """The members of a set are leased one by one, as they come up."""

    def _settle(self, now: float) -> None:
        for waiter in self.queue:
            for model in (self.models[name] for name in waiter.models):
                if model.ready:
                    model.leases.add(waiter.ticket)
        super()._settle(now)

    def _release(self, ticket: int, now: float) -> None:
        self._let_go(ticket)
        super()._release(ticket, now)

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
        return Boundless(self.budget, dict(super().copy(without).held))

    def shortage(self, footprints: Iterable[Footprint]) -> Shortage:
        return Shortage({}, 0)


class NoReservation(PoolCore):
    """Nothing is ever short."""

    def __init__(self, specs: Iterable[ModelSpec], budget: Budget, limits: Limits) -> None:
        super().__init__(specs, budget, limits)
        self.ledger = Boundless(budget)


class DrainIgnored(PoolCore):
    """A model that drains is leased nevertheless."""

    def _ready(self, model: Model) -> bool:
        return model.residency is Residency.AWAKE


class LeakOnCancel(PoolCore):
    """Who gives up while waiting stays in the queue."""

    def _release(self, ticket: int, now: float) -> None:
        if ticket in self.leases:
            super()._release(ticket, now)


class LeakAtGrant(PoolCore):
    """Who gives up in the moment of the grant keeps its lease."""

    just_granted: Collection[int] = ()

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = super().handle(event, now)
        self.just_granted = [effect.ticket for effect in effects if isinstance(effect, Grant)]
        return effects

    def _release(self, ticket: int, now: float) -> None:
        if ticket not in self.just_granted:
            super()._release(ticket, now)


class AnyoneEvicts(PoolCore):
    """Every waiter that lacks a model evicts."""

    def _serve_queue(self, now: float) -> None:
        oldest = self._evictor
        for waiter in list(self.queue):
            self._evictor = waiter.ticket
            super()._serve_queue(now)
        self._evictor = oldest


class EvictsBusy(PoolCore):
    """A victim is stopped without waiting for its leases."""

    def _evict_for(self, waiter: Waiter, needs: Sequence[Model], counted_on: set[str], now: float) -> None:
        super()._evict_for(waiter, needs, counted_on, now)
        for model in self.models.values():
            if model.draining:
                model.leases.clear()
        super()._evict_for(waiter, needs, counted_on, now)


class NoPatience(PoolCore):
    """A busy victim drains at once."""

    def _patience(self, waiter: Waiter) -> float:
        return 0.0


class EarlyRelease(PoolCore):
    """Memory counts as free when the stop is ordered, not when it is complete."""

    def _start_stop(self, model: Model, why: str, now: float) -> None:
        super()._start_stop(model, why, now)
        self.ledger.release(model.spec.name)

    def _stopped(self, model: Model, now: float) -> None:
        self.ledger.held[model.spec.name] = {}
        super()._stopped(model, now)


class NoProtectionOfTheUnserved(PoolCore):
    """A model that came up may leave before it served anybody."""

    def _loaded(self, model: Model, now: float) -> None:
        super()._loaded(model, now)
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

    def _start_loads(self, needs: Sequence[Model], claimed: set[int], now: float) -> None:
        super()._start_loads(needs, claimed, now)
        for waiter in self.queue:
            super()._start_loads(self._needs(waiter), claimed, now)


class DeadlinesMissed(PoolCore):
    """The core asks for a Tick too late."""

    def next_deadline(self, now: float) -> float:
        return super().next_deadline(now) + 1.0
