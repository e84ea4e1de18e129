"""Who competes: the core as it is, and the alternatives."""

from __future__ import annotations

from collections.abc import Sequence

from arena_server.pool.core import PoolCore
from arena_server.pool.events import Limits, ModelSpec, Times
from arena_server.pool.ledger import Budget
from bench.policies.baselines import Fifo, Lru
from bench.policies.traces import Job, Workload
from bench.policies.world import Outcome, Policy, Pool, World

MODEL_BYTES = 10 * 2**30
CORE, LRU, LRU_SLEEP, LRU_WHOLE, FIFO = "core", "lru", "lru+sleep", "lru whole", "fifo"
# More may wait than ever will: who is turned away at the door has no wait to compare.
LIMITS = Limits(max_queue=100_000, max_wait_s=600.0)


def core_for(pool: Pool, core: type[PoolCore] = PoolCore, limits: Limits = LIMITS) -> PoolCore:
    """A core over models of one size, with times as if measured."""
    costs = pool.costs
    times = Times(costs.cold_s, costs.wake_s, costs.sleep_s, costs.stop_s)
    specs = [ModelSpec(name, {0: MODEL_BYTES}, sleep_level=int(pool.sleeps), times=times) for name in pool.models]
    return core(specs, Budget({0: pool.room * MODEL_BYTES}), limits)


def contenders(workload: Workload, *, sleeps: bool) -> list[str]:
    """Their names. Where models can sleep, plain LRU comes with and without; `lru whole` takes battles as one."""
    names = [CORE, LRU, LRU_SLEEP, FIFO] if sleeps else [CORE, LRU, FIFO]
    return [*names, LRU_WHOLE] if workload.battles else names


def play(name: str, pool: Pool, jobs: Sequence[Job]) -> Outcome:
    """Play the trace against the contender of that name."""
    splits = name in (LRU, LRU_SLEEP)
    return World(_policy(name, pool), pool, splits=splits).play(jobs)


def _policy(name: str, pool: Pool) -> Policy:
    if name == CORE:
        return core_for(pool)
    if name == FIFO:
        return Fifo(pool.models, pool.room, sleeps=pool.sleeps)
    if name == LRU_WHOLE:
        return Lru(pool.models, pool.room, sleeps=pool.sleeps, max_wait_s=LIMITS.max_wait_s)
    return Lru(pool.models, pool.room, sleeps=name == LRU_SLEEP)
