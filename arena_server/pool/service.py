"""Serving the queue: what follows from the state, whatever the event was. Its rules stand at the top of `core`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from arena_server.pool.books import Books
from arena_server.pool.events import Away, Refusal
from arena_server.pool.ledger import NOTHING, Holding, Ledger
from arena_server.pool.policy import Candidate, Victims, choose_victims
from arena_server.pool.queue import Waiter
from arena_server.pool.residency import Residency
from arena_server.pool.state import Model
from arena_server.pool.why import Cause, Why


class Service(Books):
    """Grants, loads, wakes and evicts as far as the state allows now."""

    def _settle(self, now: float) -> None:
        self._grant_ready(now)
        overdue = [w for w in self.queue if now >= w.since + self.limits.max_wait_s]
        for waiter in overdue:
            detail = f"No room for it within {self.limits.max_wait_s:g} s.{self._outside_note(waiter)}"
            self._refuse_waiters([waiter], Refusal.WAIT_LIMIT, detail)
        if self.closing:
            return
        # In each round but the last two a transition begins: bounded, so that a defect here cannot hang the daemon.
        for _ in range(2 * len(self.models) + 2):
            if self._first_lacking() != self._evictor:
                self._pass_the_turn(now)
            self._put_away_dismissed(now)
            self._serve_queue(now)
            self._grant_ready(now)  # a model that was spared may be all that somebody waits for
            if self._first_lacking() == self._evictor and not self._evict_expired(now):
                break

    def _grant_ready(self, now: float) -> None:
        for waiter in list(self.queue):
            if all(self._ready(self.models[name]) for name in waiter.models):
                self.queue.remove(waiter, served=True)
                self._grant(waiter.ticket, waiter.models, now)

    def _pass_the_turn(self, now: float) -> None:
        """Let the oldest waiter that lacks a model be the evictor, and spare what drained for another one."""
        for model in self.models.values():
            self._drain(model, None, "")
        for waiter in self.queue:
            waiter.patient_until = None
        self._grant_ready(now)
        self._evictor = self._first_lacking()

    # Room

    def _serve_queue(self, now: float) -> None:
        """Oldest first: reserve what each waiter needs, evict for the evictor alone, start what fits."""
        if not self.queue:
            return  # as with each request to a model that is awake
        plan = self.ledger.copy()  # what is held, and what those before will need
        claimed: set[int] = set()  # devices whose next transition belongs to somebody older
        counted_on: set[str] = set()
        seen: set[frozenset[str]] = set()
        hopeful = self._hopeful()
        asked_for = Counter(name for waiter in hopeful for name in waiter.models)
        for waiter in hopeful:
            if waiter.models in seen:
                continue  # what there was to do for them is done; a long queue must not cost each event its length
            seen.add(waiter.models)
            counted_on |= waiter.models
            # Of a battle's two the one first that more wait for: they need not wait for the other.
            needs = sorted(self._needs(waiter), key=lambda m: -asked_for[m.name])
            if not needs:
                continue
            wanted = _awake(needs)
            if waiter.ticket == self._evictor:
                self._evict_for(waiter, [m for m in needs if m.local], counted_on, now)
                its_turn = True
            else:
                # Somebody older may need the same: it is not theirs that this one may start.
                its_turn = all(m.startable for m in needs) and not plan.copy(without=wanted).shortage(wanted)
            # What another server runs needs no room, and so no turn.
            self._start(needs if its_turn else [m for m in needs if not m.local], claimed, counted_on, now)
            if its_turn:
                # Until there is room for it, a load has no use for its devices; others may.
                freed = self._after_transitions()
                claimed.update(d for m in needs if not freed.shortage(_awake([m])) for d in m.spec.footprint)
            plan.held.update(wanted)

    def _evict_for(self, waiter: Waiter, needs: Sequence[Model], counted_on: set[str], now: float) -> None:
        victims = self._victims_now(waiter, needs, counted_on, now)
        for_whom = " and ".join(m.name for m in needs)
        held_back = False
        for model in self.models.values():
            how = Away.ASLEEP if model.name in victims.sleep else Away.STOPPED
            leaves = model.name in victims.leaving and model.residency is Residency.AWAKE
            # An idle one that cannot be put away yet, its devices being in transition, goes on serving until then.
            if leaves and not model.busy and model.draining is None and not self._at_rest(model.spec.footprint):
                leaves, held_back = False, True
            self._drain(model, how if leaves else None, Why(f"evicted for {for_whom}", Cause.EVICTED))
        if not held_back:  # it may be for that one's sleep that they are to be stopped
            self._stop_sleepers(victims, Why(f"its room is needed for {for_whom}", Cause.EVICTED), now)
        for model in needs:
            if model.room_first:
                self._clear_around(model, counted_on, now)
        unwanted = self._any_asleep(victims)
        for model in self.models.values():
            if model.draining is not None and not model.leases:
                model.owed.clear()
                self.swaps += self._put_away(model, model.draining, model.why, now, room_comes=unwanted)

    def _victims_now(self, waiter: Waiter, needs: Sequence[Model], counted_on: set[str], now: float) -> Victims:
        """Who has to leave for the evictor, as far as its patience with busy ones allows by now."""
        candidates = self._candidates(counted_on)
        plan, wanted = self._after_dismissals(), _awake(needs)
        victims = choose_victims(plan, wanted, candidates, sparing=True)
        if not victims.enough:
            return Victims()
        if not victims.any_busy:
            if all(self._at_rest(self.models[name].spec.footprint) for name in victims.leaving):
                waiter.patient_until = None  # else it may be busy again before it can go
            return victims
        if waiter.patient_until is None:
            waiter.patient_until = now + self._patience(needs, victims)
        if now >= waiter.patient_until:
            # Not `sparing`: a busy one may take longer than any load.
            return choose_victims(plan, wanted, candidates)
        return self._meanwhile(needs, [c for c in candidates if c.sleeper or c.name in victims.leaving])

    def _meanwhile(self, needs: Sequence[Model], candidates: Sequence[Candidate]) -> Victims:
        """Who leaves while busy ones are borne with: idle ones, if that makes room for one of the models already.

        (Its load would else begin when the last of the busy ones has finished, and not while they do.)
        """
        idle = [c for c in candidates if not c.busy]
        found, wanted = Victims(), dict[str, Holding]()
        for model in needs:
            with_it = wanted | _awake([model])
            victims = choose_victims(self._after_dismissals(), with_it, idle)
            if victims.enough:
                found, wanted = victims, with_it
        return found

    def _stop_sleepers(self, victims: Victims, why: str, now: float) -> None:
        for model in (self.models[name] for name in victims.stop):
            if model.residency is Residency.ASLEEP and self._at_rest(model.spec.footprint):
                self._start_stop(model, why, now)

    def _any_asleep(self, victims: Victims) -> bool:
        """Whether one that is to be stopped still sleeps, its device being in transition."""
        return any(self.models[name].residency is Residency.ASLEEP for name in victims.stop)

    def _clear_around(self, model: Model, counted_on: set[str], now: float) -> None:
        """Stop all that nobody uses on the devices of a model that ran out of memory."""
        why = Why(f"all room goes to {model.name}, which ran out of memory", Cause.OUT_OF_MEMORY)
        for other in self._idle_around(model, counted_on):
            if self._at_rest(other.spec.footprint):
                self._start_stop(other, why, now)

    def _idle_around(self, model: Model, counted_on: set[str]) -> list[Model]:
        return [
            m
            for m in self.models.values()
            if m.name not in counted_on
            and not m.spec.footprint.keys().isdisjoint(model.spec.footprint)
            and not m.spec.pinned
            and (m.residency is Residency.ASLEEP or (m.residency is Residency.AWAKE and not m.busy))
        ]

    def _candidates(self, counted_on: set[str]) -> list[Candidate]:
        turns: dict[str, int] = {}
        for place, waiter in enumerate(self._hopeful()):
            for name in waiter.models:
                turns.setdefault(name, place)
        candidates = []
        for model in self.models.values():
            if model.spec.pinned or model.dismissed is not None or model.name in counted_on or not model.local:
                continue
            sleeper = model.residency in (Residency.ASLEEP, Residency.FALLING_ASLEEP)
            if sleeper or model.residency is Residency.AWAKE:
                busy, leaving = model.busy and not sleeper, model.draining is not None
                turn = turns.get(model.name, math.inf)
                candidates.append(
                    Candidate(model.name, model.when_asleep, model.last_used, busy, leaving, sleeper, turn)
                )
        return candidates

    def _after_transitions(self) -> Ledger:
        """What will be held once those that are leaving now have left."""
        plan = self.ledger.copy()
        for model in self.models.values():
            if model.residency is Residency.STOPPING:
                plan.release(model.name)
            elif model.residency is Residency.FALLING_ASLEEP:
                plan.held[model.name] = model.when_asleep or NOTHING
        return plan

    def _after_dismissals(self) -> Ledger:
        """And those that leave next, on an operator's order."""
        plan = self._after_transitions()
        for model in self.models.values():
            if model.dismissed is None or model.leases or model.name not in plan.held:
                continue
            if model.dismissed is Away.STOPPED or model.when_asleep is None:
                plan.release(model.name)
            else:
                plan.held[model.name] = model.when_asleep
        return plan

    def _start(self, needs: Sequence[Model], claimed: set[int], counted_on: set[str], now: float) -> None:
        for model in needs:
            footprint = model.spec.footprint
            if not model.startable or not self._at_rest(footprint) or not claimed.isdisjoint(footprint):
                continue
            if self.ledger.shortage({model.name: model.when_starting}) or (
                model.room_first and self._idle_around(model, counted_on)
            ):
                continue
            self._bring_up(model, now)

    # Leaving for other reasons

    def _put_away_dismissed(self, now: float) -> None:
        for model in self.models.values():
            if model.dismissed is None or model.leases:
                continue
            model.owed.clear()
            if model.residency is Residency.AWAKE:
                self._put_away(model, model.dismissed, model.why, now)
            elif model.residency is Residency.ASLEEP and self._at_rest(model.spec.footprint):
                self._start_stop(model, model.why, now)

    def _evict_expired(self, now: float) -> bool:
        """Put away what has been idle for too long; whether there was any, which may have made room."""
        began = False
        for model in self.models.values():
            if self._idle_too_long(model, now):
                candidates = [
                    Candidate(m.name, m.when_asleep, m.last_used, sleeper=True)
                    for m in self.models.values()
                    if m.residency is Residency.ASLEEP and not m.spec.pinned and m.dismissed is None
                ]
                began = self._put_away_expired(model, candidates, now) or began
        return began

    def _put_away_expired(self, model: Model, sleepers: Sequence[Candidate], now: float) -> bool:
        why = Why(f"idle for {model.spec.idle_ttl_s:g} s", Cause.IDLE)
        how, asleep, unwanted = Away.STOPPED, model.when_asleep, False
        if asleep is not None:
            # Older sleepers give way; one that is older than all of them is stopped itself.
            older = [c for c in sleepers if c.last_used < model.last_used]
            victims = choose_victims(self._after_transitions(), {model.name: asleep}, older)
            if victims.enough:
                how = Away.ASLEEP
                self._stop_sleepers(victims, Why(f"room to sleep is needed for {model.name}", Cause.SLEEP_ROOM), now)
                unwanted = self._any_asleep(victims)
        return self._put_away(model, how, why, now, room_comes=unwanted)

    def _idle_too_long(self, model: Model, now: float) -> bool:
        if (expiry := model.idle_expiry) is None or now < expiry:
            return False
        return not any(model.name in w.models for w in self.queue)

    # Small things

    def _hopeful(self) -> list[Waiter]:
        """Everybody in the queue who can be served as things are: for others nothing is kept, and nobody waits."""
        kinds = {waiter.models: waiter for waiter in self.queue}  # a long queue must not cost each look its length
        hopeless = {models for models, waiter in kinds.items() if self._hopeless(waiter)}
        return [waiter for waiter in self.queue if waiter.models not in hopeless]

    def _patience(self, needs: Sequence[Model], victims: Victims) -> float:
        """Seconds the evictor bears with busy models before they drain.

        By default what the swap would cost: the ski-rental rule, never worse than twice the best.
        """
        if self.limits.patience_s is not None:
            return self.limits.patience_s
        leaving = sum(self.models[n].sleep_s for n in victims.sleep) + sum(self.models[n].stop_s for n in victims.stop)
        return leaving + self._cost(m.name for m in needs)

    def _outside_note(self, waiter: Waiter) -> str:
        """What others hold of the devices that the waiter lacks room on, for people."""
        devices = {d for m in self._needs(waiter) for d in m.spec.footprint}
        held = [(d, n) for d in sorted(devices) if (n := self.ledger.outside.get(d, 0)) > 0]
        return "".join(f" On device {d}, {gib(n)} are held by others than this server." for d, n in held)


def gib(n: int) -> str:
    """Bytes, for people."""
    return f"{n / 2**30:.1f} GiB"


def _awake(models: Sequence[Model]) -> dict[str, Holding]:
    return {m.name: m.when_awake for m in models}
