"""The pool's judgement: events in, effects out. Synchronous and pure: no I/O, no clock, nothing awaited.

Rules, each with the failure it prevents:

- A ticket asks for a set of models and is granted whole or not at all. (Granted one by one, two pairs each
  holding one model of the other's wait for ever.) It may give them back one by one: the side of a battle that is done
  first need not hold its model until the other is.
- A ticket whose models are all awake is granted at once, unless one of them is draining.
- Turns are shared out fairly between askers (see `queue`). "Older" means by turn, and within one by arrival. (One key
  that asks for much would keep all others waiting.) A newcomer passes neither the head nor the evictor for which models
  drain. Only the wait limit goes by the time waited.
- A full queue takes a newcomer in place of the last waiter of whoever has the most in it, if that is more than the
  newcomer's asker has then. (One key would fill it, and keep all others out.)
- Only one waiter, the oldest that lacks a model, may evict: the *evictor*. (Two would evict each
  other's models before either was served.)
- Others may load or wake into room that is free and that no older waiter needs.
- What another server runs needs no room: it comes up for whoever waits, and nobody leaves for it, nor it for anybody.
- Idle models leave first: those that nobody in the queue wants, or only the last in it, then the least recently used.
  Where only busy ones could make room, the evictor waits as long as the swap would cost, then they drain: no new
  tickets, running ones finish. (Without the wait two models would swap on every request; without the drain steady
  traffic on one would starve the other.) Meanwhile idle ones leave, if that makes room for one of its models already.
- While that wait lasts, idle models that somebody in the queue wants and that cannot sleep are spared, if busy ones
  that are not would make room. (Each would be stopped, and loaded again next.)
- Of the models that one waiter lacks, that which most others wait for comes up first. (They would wait for both.)
- An idle victim serves on until its devices are at rest and it can go. (It would be closed for all of another's load.)
- Who leaves sleeps, if it can and there is host RAM; sleepers are stopped, the least recently used first, where their
  RAM, or what they still hold of a device, is needed. (A sleeper is worth less than one that has to leave.)
- A model that came up counts as busy until one of its waiters was granted. (It would be evicted unserved.)
- Pinned models, and those an older waiter counts on, never leave.
- One transition (load, sleep, wake or stop) per device at a time, since vLLM measures free memory while it loads. (What
  failed is stopped at once all the same.)
- Memory is reserved from before a load until after the stop; a transition reserves the larger of its two ends.
- An engine that fails to fall asleep or to wake is stopped, and loaded again for who waits.
- A load that runs out of memory is tried once more when every idle model has left. (Fractions are estimates.)

`books` has the state and the small steps, `queue` the order of who waits, `service` what follows from the state,
`orders` what operators and configurations do to it, and this file what all other events do.
"""

from __future__ import annotations

import math
from dataclasses import replace

from arena_server.pool.events import (
    Away,
    Close,
    Crashed,
    Effect,
    Event,
    Loaded,
    LoadFailed,
    Outside,
    Pin,
    PutAway,
    Reconfigure,
    Refusal,
    Release,
    Request,
    Reset,
    SleepFailed,
    Slept,
    Stopped,
    Tick,
    WakeFailed,
    Woken,
)
from arena_server.pool.ledger import Footprint
from arena_server.pool.orders import Orders
from arena_server.pool.queue import Waiter
from arena_server.pool.residency import Residency
from arena_server.pool.state import STEADY_S, Model
from arena_server.pool.why import Cause, Why


class PoolCore(Orders):
    """Decides who is awake. `handle` takes one event and returns the effects, in the order to run them."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at the time `now`; return what is to be done about it."""
        self._revive(now)
        self._take(event, now)
        self._settle(now)
        self.queue.end_step()
        effects, self._effects = self._effects, []
        return effects

    def grant_at_once(self, ticket: int, names: frozenset[str], now: float) -> bool:
        """Take a Request that is granted and from which nothing else follows: its models are awake, and nobody waits.

        So it is with nearly every request, and what `handle` looks at is then in vain. False, and nothing has happened,
        if it is another.
        """
        if self.closing or self.queue:
            return False
        for name in names:
            if not self._ready(self.models[name]):
                return False
        self._lend(ticket, names, now)
        return True

    def next_deadline(self, now: float) -> float:
        """When a Tick is due if nothing happens before; infinity if never."""
        times = [w.since + self.limits.max_wait_s for w in self.queue]
        times += [w.patient_until for w in self.queue if w.patient_until is not None]
        for model in self.models.values():
            if model.residency is Residency.FAILED:
                times.append(model.retry_at)
            if (expiry := model.idle_expiry) is not None:
                times.append(expiry)
        # What is overdue waits for something else to happen (a device that is in transition, say).
        return min((t for t in times if t > now), default=math.inf)

    def _take(self, event: Event, now: float) -> None:
        match event:
            case Request(ticket, models, asker):
                self._request(ticket, models, asker, now)
            case Release(ticket, models):
                self._release(ticket, models, now)
            case Loaded(name, host_bytes):
                if host_bytes is not None:
                    self.models[name].sleep_host_bytes = host_bytes
                self._came_up(self.models[name], now)
            case Woken(name):
                self._came_up(self.models[name], now)
            case LoadFailed(name, reason, out_of_memory):
                self._load_failed(self.models[name], reason, out_of_memory, now)
            case Slept(name, asleep, host_bytes):
                self._slept(self.models[name], asleep, host_bytes, now)
            case SleepFailed(name, reason):
                self._lost(self.models[name], Why(reason, Cause.SLEEP_FAILED), now)
            case WakeFailed(name, reason):
                self._lost(self.models[name], Why(reason, Cause.WAKE_FAILED), now)
            case Crashed(name, reason):
                self._crashed(self.models[name], reason, now)
            case Stopped(name):
                self._stopped(self.models[name], now)
            case Outside(device_bytes):
                self.ledger.outside = device_bytes
            case PutAway(name, how):
                self._dismiss(self.models[name], how, Why("an operator's order", Cause.OPERATOR), now)
            case Pin(name, pinned):
                self._pin(self.models[name], pinned)
            case Reset(name):
                self._reset(self.models[name], now)
            case Reconfigure():
                self._reconfigure(event, now)
            case Close():
                self.closing = True
                self._refuse_waiters(self.queue, Refusal.CLOSING, "The server is shutting down.")
            case Tick():
                pass

    # Tickets

    def _request(self, ticket: int, names: frozenset[str], asker: str, now: float) -> None:
        models = [self.models[name] for name in sorted(names)]
        if self.closing:
            self._refuse(ticket, Refusal.CLOSING, "The server is shutting down.")
        elif all(self._ready(m) for m in models):
            self._grant(ticket, names, now)
        elif gone := [m.name for m in models if m.removed]:
            self._refuse(ticket, Refusal.UNAVAILABLE, f"{gone[0]} is no longer in the configuration.")
        elif misfit := self.misfit(names):
            self._refuse(ticket, Refusal.NEVER_FITS, misfit)
        elif failed := [m for m in models if m.residency is Residency.FAILED]:
            last = max(failed, key=lambda m: m.retry_at)
            self._refuse(ticket, Refusal.UNAVAILABLE, str(last.error), last.retry_at - now)
        else:
            self._enqueue(Waiter(ticket, names, now, asker))

    def _enqueue(self, waiter: Waiter) -> None:
        behind = self._drained_for()
        if (waiting := len(self.queue)) >= self.limits.max_queue:
            detail = f"{waiting} requests wait for a model already"
            other = self.queue.gives_way(waiter.asker)
            if other is None:
                self._refuse(waiter.ticket, Refusal.QUEUE_FULL, f"{detail}.", self._cost(waiter.models))
                return
            detail += ", most of them from here: the last made way for another's."
            self._refuse_waiters([other], Refusal.QUEUE_FULL, detail, self._cost(other.models))
        self.queue.add(waiter, behind)

    def _drained_for(self) -> Waiter | None:
        """The evictor, if models drain for it: a newcomer would let them serve on, for which it has waited in vain."""
        drains = any(model.draining is not None for model in self.models.values())
        return self.queue.of(self._evictor) if drains else None

    def _release(self, ticket: int, names: frozenset[str] | None, now: float) -> None:
        if ticket in self.leases:
            held = self.leases.pop(ticket)
            done = held if names is None else held & names
            if rest := held - done:
                self.leases[ticket] = rest
            for model in (self.models[name] for name in done if name in self.models):
                # A lease on an engine that crashed is not one on the engine that took its place.
                if ticket in model.leases:
                    model.leases.remove(ticket)
                    model.last_used = now
        else:
            waiter = self.queue.of(ticket)
            assert waiter is not None, f"nobody knows ticket {ticket}"
            # As if served, where all others had to plan for it: or who asks again and again would upset each plan.
            self.queue.remove(waiter, served=ticket == self._evictor)
            self._forget(ticket)

    # Transitions that ended

    def _came_up(self, model: Model, now: float) -> None:
        took_s = now - model.since
        if model.residency is Residency.WAKING:
            model.times = replace(model.times, wake_s=took_s)
            self.ledger.reserve(model.name, model.when_awake)
            model.sleep_failures = 0
        else:
            model.times = replace(model.times, load_s=took_s)
        model.retried = False
        model.error = None
        self._move(model, Residency.AWAKE, f"it answers, after {took_s:.1f} s", now)
        model.last_used = now
        model.owed = {w.ticket for w in self.queue if model.name in w.models}

    def _slept(self, model: Model, asleep: Footprint | None, host_bytes: int | None, now: float) -> None:
        took_s = now - model.since
        model.times = replace(model.times, sleep_s=took_s)
        if asleep is not None:
            model.asleep_bytes = asleep
        if host_bytes is not None:
            model.sleep_host_bytes = model.host_bytes = host_bytes
        self._move(model, Residency.ASLEEP, f"after {took_s:.1f} s", now)
        if model.dismissed is Away.ASLEEP:
            model.dismissed = None
        # Not `reserve`: what is measured is held, whether or not it was to be so much.
        self.ledger.held[model.name] = model.when_asleep or self.ledger.held[model.name]

    def _stopped(self, model: Model, now: float) -> None:
        model.times = replace(model.times, stop_s=now - model.since)
        self.ledger.release(model.name)
        model.host_bytes = 0
        backoff = model.backoff_s if model.broken else 0.0
        model.broken = False
        model.dismissed = None
        if backoff > 0 and model.successor is None:
            model.retry_at = now + backoff
            self._move(model, Residency.FAILED, f"failed {model.failures} times in a row", now)
            self._refuse_waiters_of(model)
        else:
            self._move(model, Residency.COLD, "its memory is back", now)
        self._succeed(model)

    # Failures

    def _load_failed(self, model: Model, reason: str, out_of_memory: bool, now: float) -> None:
        if out_of_memory and not model.retried:
            model.room_first = model.retried = True
            model.error = reason
            why = Why("out of memory; it is loaded once more when all idle models have left", Cause.OUT_OF_MEMORY)
            self._start_stop(model, why, now, orderly=False)
            return
        self._failed(model, reason, Why("load failed", Cause.LOAD_FAILED), now)
        # Those who wait for it hear of it now; one that crashed is loaded again for them.
        self._refuse_waiters_of(model)

    def _crashed(self, model: Model, reason: str, now: float) -> None:
        if model.residency is Residency.AWAKE:
            self._failed(model, reason, Why("crashed", Cause.CRASHED), now)
        elif model.residency in (Residency.FALLING_ASLEEP, Residency.ASLEEP, Residency.WAKING):
            self._lost(model, Why(reason, Cause.CRASHED), now)
        # One that is being stopped ends anyway.

    def _failed(self, model: Model, reason: str, what: str, now: float) -> None:
        # By how long it was up, not by whether it served: the answers that an engine's end cuts short end first.
        steady = model.residency is Residency.AWAKE and now >= model.since + STEADY_S
        model.failures = 1 if steady else model.failures + 1
        model.error = reason
        model.broken = True
        model.room_first = model.retried = False
        model.leases.clear()
        model.owed.clear()
        self._start_stop(model, what, now, orderly=False)

    def _lost(self, model: Model, reason: str, now: float) -> None:
        """Nobody's answer is lost: who waits has it loaded again."""
        if model.residency is not Residency.ASLEEP:
            model.sleep_failures += 1
        model.error = reason
        self._start_stop(model, reason, now, orderly=False)

    def _revive(self, now: float) -> None:
        for model in self.models.values():
            if model.residency is Residency.FAILED and model.retry_at <= now:
                self._move(model, Residency.COLD, "time to try again", now)
