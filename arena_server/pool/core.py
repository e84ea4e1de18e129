"""The pool's judgement: events in, effects out. Synchronous and pure: no I/O, no clock, nothing awaited.

Rules, each with the failure it prevents:

- A ticket asks for a set of models and is granted whole or not at all. (Granted one by one, two pairs each
  holding one model of the other's wait for ever.)
- A ticket whose models are all awake is granted at once, unless one of them is draining.
- Only one waiter, the oldest that lacks a model, may evict: the *evictor*. (Two would evict each
  other's models before either was served.)
- Others may load into room that is free and that no older waiter needs.
- Idle models leave first, the least recently used first. Where only busy ones could make room, the evictor
  waits as long as the swap would cost, then they drain: no new tickets, running ones finish. (Without
  the wait two models would swap on every request; without the drain steady traffic on one would starve the other.)
- A model that came up counts as busy until one of its waiters was granted. (It would be evicted unserved.)
- Pinned models, and those an older waiter counts on, never leave.
- One transition (load or stop) per device at a time, since vLLM measures free memory while it loads. (What
  failed is stopped at once all the same.)
- Memory is reserved from before a load until after the stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

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
from arena_server.pool.ledger import Budget, Footprint, Ledger
from arena_server.pool.policy import Candidate, choose_victims
from arena_server.pool.residency import IN_TRANSITION, Residency, move
from arena_server.pool.state import STEADY_S, Limits, Model, Waiter


class PoolCore:
    """Decides who is awake. `handle` takes one event and returns the effects, in the order to run them."""

    def __init__(self, specs: Iterable[ModelSpec], budget: Budget, limits: Limits) -> None:
        self.models = {spec.name: Model(spec) for spec in specs}
        self.ledger = Ledger(budget)
        self.limits = limits
        self.queue: list[Waiter] = []  # oldest first
        self.leases: dict[int, frozenset[str]] = {}
        self.closing = False
        self._evictor: int | None = None  # the ticket for which models drain
        self._effects: list[Effect] = []

    # Events

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at the time `now`; return what is to be done about it."""
        self._revive(now)
        match event:
            case Request(ticket, models):
                self._request(ticket, models, now)
            case Release(ticket):
                self._release(ticket, now)
            case Loaded(name):
                self._loaded(self.models[name], now)
            case LoadFailed(name, reason):
                self._failed(self.models[name], reason, "load failed", now)
            case Crashed(name, reason):
                # One that is being stopped ends anyway.
                if self.models[name].residency is Residency.AWAKE:
                    self._failed(self.models[name], reason, "crashed", now)
            case Stopped(name):
                self._stopped(self.models[name], now)
            case Close():
                self.closing = True
                self._refuse_waiters(self.queue, Refusal.CLOSING, "The server is shutting down.")
            case Tick():
                pass
        self._settle(now)
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self, now: float) -> float:
        """When a Tick is due if nothing happens before; infinity if never."""
        times = [w.since + self.limits.max_wait_s for w in self.queue]
        times += [w.blocked_since + self._patience(w) for w in self.queue if w.blocked_since is not None]
        for model in self.models.values():
            if model.residency is Residency.FAILED:
                times.append(model.retry_at)
            if (expiry := model.idle_expiry) is not None:
                times.append(expiry)
        # What is overdue waits for something else to happen (a device that is in transition, say).
        return min((t for t in times if t > now), default=math.inf)

    def _request(self, ticket: int, names: frozenset[str], now: float) -> None:
        models = [self.models[name] for name in sorted(names)]
        if self.closing:
            self._refuse(ticket, Refusal.CLOSING, "The server is shutting down.")
        elif all(self._ready(m) for m in models):
            self._grant(ticket, names, now)
        elif misfit := self._misfit(models):
            self._refuse(ticket, Refusal.NEVER_FITS, misfit)
        elif failed := [m for m in models if m.residency is Residency.FAILED]:
            last = max(failed, key=lambda m: m.retry_at)
            self._refuse(ticket, Refusal.UNAVAILABLE, str(last.error), last.retry_at - now)
        elif len(self.queue) >= self.limits.max_queue:
            detail = f"{len(self.queue)} requests wait for a model already."
            self._refuse(ticket, Refusal.QUEUE_FULL, detail, self._cost(names))
        else:
            self.queue.append(Waiter(ticket, names, now))

    def _release(self, ticket: int, now: float) -> None:
        if ticket in self.leases:
            for model in (self.models[name] for name in self.leases.pop(ticket)):
                # A lease on an engine that crashed is not one on the engine that took its place.
                if ticket in model.leases:
                    model.leases.remove(ticket)
                    model.last_used = now
        else:
            waiting = {waiter.ticket: waiter for waiter in self.queue}
            self.queue.remove(waiting[ticket])
            self._forget(ticket)

    def _loaded(self, model: Model, now: float) -> None:
        model.load_s = now - model.since
        self._move(model, Residency.AWAKE, now)
        model.last_used = now
        model.error = None
        model.owed = {w.ticket for w in self.queue if model.spec.name in w.models}

    def _failed(self, model: Model, reason: str, what: str, now: float) -> None:
        # By how long it was up, not by whether it served: the answers that an engine's end cuts short end first.
        steady = model.residency is Residency.AWAKE and now >= model.since + STEADY_S
        model.failures = 1 if steady else model.failures + 1
        model.error = reason
        model.broken = True
        model.leases.clear()
        model.owed.clear()
        self._start_stop(model, what, now)
        if what == "load failed":
            # Those who wait for it hear of it now; one that crashed is loaded again for them.
            self._refuse_waiters_of(model)

    def _stopped(self, model: Model, now: float) -> None:
        self.ledger.release(model.spec.name)
        if not model.broken:
            model.failures = 0
        backoff = model.backoff_s if model.broken else 0.0
        model.broken = False
        if backoff > 0:
            model.retry_at = now + backoff
            self._move(model, Residency.FAILED, now)
            self._refuse_waiters_of(model)
        else:
            self._move(model, Residency.COLD, now)

    # What follows from the state, whatever the event

    def _settle(self, now: float) -> None:
        self._grant_ready(now)
        overdue = [w for w in self.queue if now >= w.since + self.limits.max_wait_s]
        detail = f"No room for it within {self.limits.max_wait_s:g} s."
        self._refuse_waiters(overdue, Refusal.WAIT_LIMIT, detail)
        if self.closing:
            return
        # In each round but the last two a load or a stop begins: bounded, so that a defect here cannot hang the daemon.
        for _ in range(2 * len(self.models) + 2):
            if self._first_lacking() != self._evictor:
                self._pass_the_turn(now)
            self._serve_queue(now)
            self._grant_ready(now)  # a model that was spared may be all that somebody waits for
            if self._first_lacking() == self._evictor and not self._stop_expired(now):
                break

    def _stop_expired(self, now: float) -> bool:
        """Stop what has been idle for too long; whether there was any, which may have made room."""
        expired = [m for m in self.models.values() if self._idle_too_long(m, now)]
        stopped = False
        for model in expired:
            if self._at_rest(model.spec.footprint):
                self._start_stop(model, f"idle for {model.spec.idle_ttl_s:g} s", now)
                stopped = True
        return stopped

    def _pass_the_turn(self, now: float) -> None:
        """Let the oldest waiter that lacks a model be the evictor, and spare what drained for another one."""
        for model in self.models.values():
            model.draining = None
        for waiter in self.queue:
            waiter.blocked_since = None
        self._grant_ready(now)
        self._evictor = self._first_lacking()

    def _grant_ready(self, now: float) -> None:
        for waiter in list(self.queue):
            if all(self._ready(self.models[name]) for name in waiter.models):
                self.queue.remove(waiter)
                self._grant(waiter.ticket, waiter.models, now)

    def _first_lacking(self) -> int | None:
        """The ticket of the oldest waiter for which something has still to be done."""
        return next((w.ticket for w in self.queue if self._needs(w)), None)

    def _needs(self, waiter: Waiter) -> list[Model]:
        return [m for name in sorted(waiter.models) if not (m := self.models[name]).coming]

    def _serve_queue(self, now: float) -> None:
        """Oldest first: reserve what each waiter needs, evict for the evictor alone, load what fits."""
        plan = self.ledger.copy()  # what is held, and what those before will need
        claimed: set[int] = set()  # devices whose next transition belongs to somebody older
        counted_on: set[str] = set()
        for waiter in self.queue:
            counted_on |= waiter.models
            needs = self._needs(waiter)
            if not needs:
                continue
            others = plan.copy(without=[m.spec.name for m in needs])  # somebody older may need the same
            if waiter.ticket == self._evictor:
                self._evict_for(waiter, needs, counted_on, now)
                its_turn = True
            else:
                cold = all(m.residency is Residency.COLD for m in needs)
                its_turn = cold and not others.shortage(_footprints(needs))
            if its_turn:
                self._start_loads(needs, claimed, now)
                # Until there is room for it, a load has no use for its devices; others may.
                stopping = [name for name, m in self.models.items() if m.residency is Residency.STOPPING]
                freed = self.ledger.copy(without=stopping)
                claimed.update(d for m in needs if not freed.shortage([m.spec.footprint]) for d in m.spec.footprint)
            plan.held.update({m.spec.name: m.spec.footprint for m in needs})

    def _evict_for(self, waiter: Waiter, needs: Sequence[Model], counted_on: set[str], now: float) -> None:
        self._spare_needless(needs)
        leaving = self._leaving()
        candidates = [
            Candidate(name, m.spec.footprint, m.busy, m.last_used)
            for name, m in self.models.items()
            if m.residency is Residency.AWAKE and m.draining is None and not m.spec.pinned and name not in counted_on
        ]
        victims = choose_victims(self.ledger.copy(without=leaving), _footprints(needs), candidates)
        if not victims.any_busy:
            waiter.blocked_since = None
        elif waiter.blocked_since is None:
            waiter.blocked_since = now
        patient = waiter.blocked_since is not None and now < waiter.blocked_since + self._patience(waiter)
        if victims.enough and not patient:
            for name in victims.names:
                self.models[name].draining = "evicted for " + " and ".join(m.spec.name for m in needs)
        for model in self.models.values():
            if model.draining and not model.leases and self._at_rest(model.spec.footprint):
                model.owed.clear()
                self._start_stop(model, model.draining, now)

    def _leaving(self) -> list[str]:
        return [name for name, m in self.models.items() if m.residency is Residency.STOPPING or m.draining is not None]

    def _spare_needless(self, needs: Sequence[Model]) -> None:
        """Let those stay after all for which room came from elsewhere (a crash, say), the last used first."""
        draining = [m for m in self.models.values() if m.draining is not None]
        for model in sorted(draining, key=lambda m: m.last_used, reverse=True):
            without_others = [name for name in self._leaving() if name != model.spec.name]
            if not self.ledger.copy(without=without_others).shortage(_footprints(needs)):
                model.draining = None

    def _start_loads(self, needs: Sequence[Model], claimed: set[int], now: float) -> None:
        for model in needs:
            footprint = model.spec.footprint
            if (
                model.residency is Residency.COLD
                and self._at_rest(footprint)
                and claimed.isdisjoint(footprint)
                and not self.ledger.shortage([footprint])
            ):
                self.ledger.reserve(model.spec.name, footprint)
                self._move(model, Residency.LOADING, now)
                self._effects.append(Load(model.spec.name))

    # Small steps

    def _ready(self, model: Model) -> bool:
        return model.ready

    def _at_rest(self, footprint: Footprint) -> bool:
        """Whether none of these devices has a transition under way."""
        return not any(
            m.residency in IN_TRANSITION and not m.spec.footprint.keys().isdisjoint(footprint)
            for m in self.models.values()
        )

    def _grant(self, ticket: int, names: frozenset[str], now: float) -> None:
        self.leases[ticket] = names
        for name in names:
            model = self.models[name]
            model.leases.add(ticket)
            if ticket in model.owed:
                model.owed.clear()
            model.last_used = now
        self._effects.append(Grant(ticket))

    def _start_stop(self, model: Model, why: str, now: float) -> None:
        assert not model.busy, f"{model.spec.name} is in use"
        model.draining = None
        self._move(model, Residency.STOPPING, now)
        self._effects.append(Stop(model.spec.name, why))

    def _move(self, model: Model, to: Residency, now: float) -> None:
        model.residency = move(model.spec.name, model.residency, to)
        model.since = now

    def _refuse(self, ticket: int, refusal: Refusal, detail: str, retry_after_s: float | None = None) -> None:
        self._effects.append(Refuse(ticket, refusal, detail, retry_after_s))

    def _refuse_waiters(
        self, waiters: Iterable[Waiter], refusal: Refusal, detail: str, retry_after_s: float | None = None
    ) -> None:
        for waiter in list(waiters):
            self.queue.remove(waiter)
            after = self._cost(waiter.models) if refusal is Refusal.WAIT_LIMIT else retry_after_s
            self._refuse(waiter.ticket, refusal, detail, after)
            self._forget(waiter.ticket)

    def _refuse_waiters_of(self, model: Model) -> None:
        wanting = [w for w in self.queue if model.spec.name in w.models]
        self._refuse_waiters(wanting, Refusal.UNAVAILABLE, str(model.error), max(1.0, model.backoff_s))

    def _forget(self, ticket: int) -> None:
        """Nothing is owed to who has left the queue."""
        for model in self.models.values():
            model.owed.discard(ticket)

    def _revive(self, now: float) -> None:
        for model in self.models.values():
            if model.residency is Residency.FAILED and model.retry_at <= now:
                self._move(model, Residency.COLD, now)

    def _cost(self, names: Iterable[str]) -> float:
        return sum(self.models[name].cost_s for name in names)

    def _patience(self, waiter: Waiter) -> float:
        """Seconds the evictor waits for busy models before they drain.

        By default what the swap would cost: the ski-rental rule, never worse than twice the best.
        """
        return self._cost(waiter.models) if self.limits.patience_s is None else self.limits.patience_s

    def _idle_too_long(self, model: Model, now: float) -> bool:
        if (expiry := model.idle_expiry) is None or now < expiry:
            return False
        return not any(model.spec.name in w.models for w in self.queue)

    def _misfit(self, models: Sequence[Model]) -> str | None:
        """Why these can never be awake together, beside what is pinned; None if they can."""
        pinned = [m for m in self.models.values() if m.spec.pinned and m not in models]
        shortage = Ledger(self.ledger.budget).shortage(_footprints([*models, *pinned]))
        if not shortage:
            return None
        if shortage.places:
            most = self.ledger.budget.max_awake
            return f"{len(models)} models beside {len(pinned)} pinned; at most {most} can be awake."
        device = min(shortage.device_bytes)
        sizes = ", ".join(
            f"{m.spec.name} {_gib(m.spec.footprint[device])}{' (pinned)' if m in pinned else ''}"
            for m in [*models, *pinned]
            if device in m.spec.footprint
        )
        return f"On device {device}: {sizes}; the budget is {_gib(self.ledger.budget.device_bytes[device])}."


def _footprints(models: Iterable[Model]) -> list[Footprint]:
    return [m.spec.footprint for m in models]


def _gib(n: int) -> str:
    return f"{n / 2**30:.1f} GiB"
