"""A bound for small cases: the best schedule that a beam search finds, knowing all requests beforehand.

It minimises the mean wait. At each moment at which something happens it may begin to bring up a model that somebody
waits for (not before: a policy knows no better) in the place of any other, idle or busy; a busy one drains first. A
request is granted once all of its models are awake and none of them drains. One swap is decided at a time, and one
transition goes on at a time. The search keeps the `width` cheapest states of every few seconds: what it finds can be
done, so the true optimum is at most that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench.policies.traces import Job
from bench.policies.world import Pool

STEP_S = 10.0  # states are compared at moments so far apart
COLD, UP, LEAVING, ASLEEP = "cold", "up", "leaving", "asleep"


@dataclass(frozen=True, slots=True)
class _State:
    """Where a schedule stands. Of each model: where it is, and when its last answer ends."""

    at: tuple[str, ...]
    busy_until: tuple[float, ...]
    waiting: tuple[int, ...] = ()
    waited_s: float = 0.0  # by all who were granted
    coming: int | None = None  # the model that is to come up next
    victim: int | None = None  # which has to leave for it first, or leaves now
    moving: int | None = None  # the model in transition
    moves_until: float = math.inf


@dataclass(frozen=True, slots=True)
class _Entry:
    """A state at its next moment, with what all requests have waited by the search's horizon."""

    cost_s: float
    now: float
    came: int  # requests that have come
    state: _State

    @property
    def key(self) -> object:
        """What the future depends on."""
        s = self.state
        busy = tuple(max(until, self.now) for until in s.busy_until)
        return (self.now, self.came, s.at, busy, s.waiting, s.coming, s.victim, s.moving, s.moves_until)


class Search:
    """Over the schedules of one trace on one pool."""

    def __init__(self, pool: Pool, jobs: Sequence[Job], width: int = 200) -> None:
        self.pool = pool
        self.jobs = jobs
        self.width = width
        self.index = {name: i for i, name in enumerate(pool.models)}
        self._best_s = math.inf
        self.wants = [tuple(self.index[m] for m in job.models) for job in jobs]

    def best_mean_wait_s(self) -> float:
        """The least mean wait found."""
        count = len(self.pool.models)
        beam = [_Entry(0.0, 0.0, 0, _State((COLD,) * count, (0.0,) * count))]
        horizon = 0.0
        self._best_s = math.inf
        while beam:
            horizon += STEP_S
            beam = sorted(self._until(horizon, beam), key=lambda entry: entry.cost_s)[: self.width]
        return self._best_s / len(self.jobs)

    def _until(self, horizon: float, open_: list[_Entry]) -> list[_Entry]:
        """All states that can be reached, each at its first moment after the horizon, with the cost by then."""
        parked: dict[object, _Entry] = {}
        seen: dict[object, float] = {}
        while open_:
            entry = open_.pop()
            if entry.now > horizon:
                self._keep(parked, entry)
                continue
            for choice in self._choices(entry.state, entry.now):
                after = self._next(choice, entry.now, entry.came)
                if after is None:
                    continue
                then, came, reached = after
                if came == len(self.jobs) and not reached.waiting:
                    self._best_s = min(self._best_s, reached.waited_s)
                    continue
                owed_s = sum(max(0.0, min(then, horizon) - self.jobs[j].at) for j in choice.waiting)
                further = _Entry(choice.waited_s + owed_s, then, came, reached)
                if further.cost_s >= self._best_s:
                    continue
                if then > horizon:
                    self._keep(parked, further)
                elif seen.get(further.key, math.inf) > reached.waited_s:
                    seen[further.key] = reached.waited_s
                    open_.append(further)
        return list(parked.values())

    def _keep(self, parked: dict[object, _Entry], entry: _Entry) -> None:
        if entry.key not in parked or entry.cost_s < parked[entry.key].cost_s:
            parked[entry.key] = entry

    def _choices(self, state: _State, now: float) -> Iterator[_State]:
        """What may be decided now: nothing, or one swap."""
        yield state
        if state.coming is not None:
            return
        held = sum(at in (UP, LEAVING) for at in state.at)
        wanted = {m for number in state.waiting for m in self.wants[number]}
        for model, at in enumerate(state.at):
            if at not in (COLD, ASLEEP) or model not in wanted:
                continue
            if held < self.pool.room:
                yield self._begin(replace(state, coming=model), now)
                continue
            for victim, where in enumerate(state.at):
                if where == UP:
                    drains = tuple(LEAVING if i == victim else a for i, a in enumerate(state.at))
                    yield self._begin(replace(state, at=drains, coming=model, victim=victim), now)

    def _begin(self, state: _State, now: float) -> _State:
        """Start the transition that is due, if it can start."""
        if state.moving is not None or state.coming is None:
            return state
        costs = self.pool.costs
        if state.victim is None:
            takes = costs.cold_s if state.at[state.coming] == COLD else costs.wake_s
            return replace(state, moving=state.coming, moves_until=now + takes)
        if state.busy_until[state.victim] <= now:
            takes = costs.sleep_s if self.pool.sleeps else costs.stop_s
            return replace(state, moving=state.victim, moves_until=now + takes)
        return state

    def _next(self, state: _State, now: float, came: int) -> tuple[float, int, _State] | None:
        """The next moment at which something happens, and what then is; None if nothing ever will."""
        times = [state.moves_until]
        if came < len(self.jobs):
            times.append(self.jobs[came].at)
        times += [until for until in state.busy_until if until > now]
        if state.victim is not None and state.moving is None:
            times.append(max(now, state.busy_until[state.victim]))
        then = min(times)
        if math.isinf(then):
            return None
        if came < len(self.jobs) and self.jobs[came].at <= then:
            state = replace(state, waiting=(*state.waiting, came))
            came += 1
        if state.moves_until <= then:
            state = self._moved(state)
        return then, came, self._begin(self._grant(state, then), then)

    def _moved(self, state: _State) -> _State:
        moved = state.moving
        state = replace(state, moving=None, moves_until=math.inf)
        if moved == state.victim:
            to = ASLEEP if self.pool.sleeps else COLD
            return replace(state, victim=None, at=tuple(to if i == moved else a for i, a in enumerate(state.at)))
        return replace(state, coming=None, at=tuple(UP if i == moved else a for i, a in enumerate(state.at)))

    def _grant(self, state: _State, now: float) -> _State:
        waiting, busy, waited_s = [], list(state.busy_until), state.waited_s
        for number in state.waiting:
            wants, job = self.wants[number], self.jobs[number]
            if any(state.at[m] != UP for m in wants):
                waiting.append(number)
                continue
            waited_s += now - job.at
            for m, takes_s in zip(wants, job.service_s, strict=True):
                busy[m] = max(busy[m], now + takes_s)
        return replace(state, waiting=tuple(waiting), busy_until=tuple(busy), waited_s=waited_s)
