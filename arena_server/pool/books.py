"""The core's books, and the small steps that change them: each keeps models, ledger, queue and leases in agreement."""

from __future__ import annotations

from collections.abc import Iterable

from arena_server.pool.events import (
    Away,
    Drains,
    Effect,
    Grant,
    Limits,
    Load,
    ModelSpec,
    Moved,
    Refusal,
    Refuse,
    Sleep,
    Stop,
    Wake,
)
from arena_server.pool.ledger import Budget, Footprint, Ledger, holding_awake
from arena_server.pool.queue import Waiter, Waiters
from arena_server.pool.residency import IN_TRANSITION, Residency, move
from arena_server.pool.state import Model
from arena_server.pool.why import Cause, Why


class Books:
    """Who is where, who waits, who uses what; and the effects that are to leave with the event at hand."""

    def __init__(self, specs: Iterable[ModelSpec], budget: Budget, limits: Limits) -> None:
        self.models = {spec.name: Model(spec, times=spec.times) for spec in specs}
        self.ledger = Ledger(budget)
        self.limits = limits
        self.queue = Waiters()
        self.leases: dict[int, frozenset[str]] = {}
        self.closing = False
        self.swaps = 0  # awake models that were put away for another
        self._evictor: int | None = None  # the ticket for which models drain
        self._effects: list[Effect] = []

    # Reading

    def _ready(self, model: Model) -> bool:
        return model.ready

    def _needs(self, waiter: Waiter) -> list[Model]:
        return [m for name in sorted(waiter.models) if not (m := self.models[name]).coming]

    def _needs_room(self, waiter: Waiter) -> list[Model]:
        return [m for m in self._needs(waiter) if m.local]

    def _first_lacking(self) -> int | None:
        """The ticket of the oldest waiter for which room has still to be made or used, and can be."""
        return next((w.ticket for w in self.queue if self._needs_room(w) and not self._hopeless(w)), None)

    def _hopeless(self, waiter: Waiter) -> bool:
        """Whether others hold so much that its models would not fit now even if all the rest left.

        It keeps its place, but nobody waits behind it: else one program on a GPU would end all swaps of the daemon.
        """
        if not self.ledger.outside or not any(self.models[name].local for name in waiter.models):
            return False
        names = {*waiter.models, *(name for name, m in self.models.items() if m.spec.pinned)}
        alone = Ledger(self.ledger.budget, outside=self.ledger.outside)
        return bool(alone.shortage({name: holding_awake(self.models[name].spec.footprint) for name in names}))

    def _at_rest(self, footprint: Footprint) -> bool:
        """Whether none of these devices has a transition under way."""
        return not any(
            m.residency in IN_TRANSITION and not m.spec.footprint.keys().isdisjoint(footprint)
            for m in self.models.values()
        )

    def _cost(self, names: Iterable[str]) -> float:
        """Seconds until these could be ready, were there room."""
        return sum(self.models[name].start_s for name in names)

    # Tickets

    def _grant(self, ticket: int, names: frozenset[str], now: float) -> None:
        self._lend(ticket, names, now)
        self._effects.append(Grant(ticket))

    def _lend(self, ticket: int, names: frozenset[str], now: float) -> None:
        self.leases[ticket] = names
        for name in names:
            model = self.models[name]
            model.leases.add(ticket)
            model.granted += 1
            if ticket in model.owed:
                model.owed.clear()
            model.last_used = now

    def _refuse(self, ticket: int, refusal: Refusal, detail: str, retry_after_s: float | None = None) -> None:
        self._effects.append(Refuse(ticket, refusal, detail, retry_after_s))

    def _refuse_waiters(
        self, waiters: Iterable[Waiter], refusal: Refusal, detail: str, retry_after_s: float | None = None
    ) -> None:
        for waiter in list(waiters):
            self.queue.remove(waiter, served=False)
            after = self._cost(waiter.models) if refusal is Refusal.WAIT_LIMIT else retry_after_s
            self._refuse(waiter.ticket, refusal, detail, after)
            self._forget(waiter.ticket)

    def _refuse_waiters_of(self, model: Model, detail: str | None = None) -> None:
        wanting = [w for w in self.queue if model.name in w.models]
        retry_after_s = None if model.removed else max(1.0, model.backoff_s)
        self._refuse_waiters(wanting, Refusal.UNAVAILABLE, detail or str(model.error), retry_after_s)

    def _forget(self, ticket: int) -> None:
        """Nothing is owed to who has left the queue."""
        for model in self.models.values():
            model.owed.discard(ticket)

    # Transitions

    def _bring_up(self, model: Model, now: float) -> None:
        """Load a cold model, wake one that sleeps."""
        self.ledger.reserve(model.name, model.when_starting)
        model.room_first = False
        why, cost_s = Why("a request waits for it", Cause.REQUEST), model.start_s
        asleep = model.residency is Residency.ASLEEP
        self._move(model, Residency.WAKING if asleep else Residency.LOADING, why, now)
        self._effects.append((Wake if asleep else Load)(model.name, why, cost_s))

    def _start_sleep(self, model: Model, why: str, now: float) -> None:
        self._assert_unused(model)
        holding = model.when_falling_asleep
        self.ledger.reserve(model.name, holding)
        model.host_bytes = holding.host_bytes
        model.draining = None
        self._move(model, Residency.FALLING_ASLEEP, why, now)
        self._effects.append(Sleep(model.name, why, model.sleep_s))

    def _start_stop(self, model: Model, why: str, now: float, *, orderly: bool = True) -> None:
        """Not `orderly`: after a failure, which goes on counting."""
        self._assert_unused(model)
        if orderly:
            model.failures = 0
            model.room_first = model.retried = False
        model.draining = None
        self._move(model, Residency.STOPPING, why, now)
        self._effects.append(Stop(model.name, why, model.stop_s))

    def _assert_unused(self, model: Model) -> None:
        assert not model.busy, f"{model.name} is in use"

    def _put_away(self, model: Model, how: Away, why: str, now: float, *, room_comes: bool = False) -> bool:
        """Begin to put away a model that nobody uses; False if that has to wait (`room_comes`: for host RAM)."""
        if not self._at_rest(model.spec.footprint):
            return False
        if how is Away.ASLEEP and model.when_asleep is not None:
            if not self.ledger.shortage({model.name: model.when_falling_asleep}):
                self._start_sleep(model, why, now)
                return True
            if room_comes or any(m.residency is Residency.STOPPING and m.host_bytes for m in self.models.values()):
                return False
        self._start_stop(model, why, now)
        return True

    def _drain(self, model: Model, how: Away | None, why: str) -> None:
        """Ask a model to leave, or think better of it. One that has to leave anyway is not asked."""
        if model.dismissed is not None:
            return
        if (model.draining is None) != (how is None):
            self._effects.append(Drains(model.name, why if how else None))
        model.draining, model.why = how, why

    def _move(self, model: Model, to: Residency, why: str, now: float) -> None:
        self._effects.append(Moved(model.name, model.residency, to, why))
        model.residency = move(model.name, model.residency, to)
        model.since = now
