"""The figures: every workload, with sleep and without, against every contender; and the core beside the bound."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.policies.contenders import CORE, contenders, play
from bench.policies.offline import Search
from bench.policies.traces import SMALL, Job, Workload, in_use, workloads
from bench.policies.world import Outcome, Pool
from bench.report import percentile

# Requests of the first while are served, but not counted: all models are cold then, and a first load is no swap.
WARM_UP_S = 600.0


@dataclass(frozen=True, slots=True)
class Row:
    """What one contender made of one workload, all seeds together."""

    policy: str
    p50_s: float
    p95_s: float
    max_s: float
    mean_s: float
    p95_by_seed_s: list[float]
    apart_p95_s: float  # between the two sides of a battle
    swaps: int
    loads: int
    wakes: int
    finished_per_hour: float
    refused: int
    transition_share: float  # of the time


@dataclass(frozen=True, slots=True)
class Table:
    """One workload, with sleep or without."""

    workload: str
    sleeps: bool
    battles: bool
    requests: int
    rate_per_min: float
    utilisation: float  # models in use on average, were all awake, as a share of the room
    rows: list[Row]

    def row(self, policy: str) -> Row:
        """Of the contender of that name."""
        return next(row for row in self.rows if row.policy == policy)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.workload}, {'sleep' if self.sleeps else 'no sleep'}"


@dataclass(frozen=True, slots=True)
class Bound:
    """Small cases of one workload: the mean waits of the best schedule found, and of the core."""

    workload: str
    sleeps: bool
    cases: int
    best_s: float
    core_s: float
    worst_ratio: float

    @property
    def ratio(self) -> float:
        """The core's mean wait to that of the best schedule found."""
        return self.core_s / self.best_s


def tables(requests: int, seeds: int) -> Iterator[Table]:
    """Each workload without sleep and with."""
    for workload in workloads():
        for sleeps in (False, True):
            yield table(workload, requests, seeds, sleeps=sleeps)


def table(workload: Workload, requests: int, seeds: int, *, sleeps: bool) -> Table:
    """The same traces for every contender."""
    traces = [workload.trace(seed, requests, sleeps=sleeps) for seed in range(seeds)]
    pool = Pool(workload.models, workload.room, sleeps)
    rows = []
    for name in contenders(workload, sleeps=sleeps):
        outcomes = [play(name, pool, jobs) for jobs in traces]
        counted = [[n for n, job in enumerate(jobs) if job.at >= WARM_UP_S] for jobs in traces]
        rows.append(_row(name, outcomes, counted))
    used = statistics.mean(in_use(jobs, workload.models) for jobs in traces) / workload.room
    rate = workload.rates[sleeps] * 60
    return Table(workload.name, sleeps, workload.battles, requests * seeds, rate, used, rows)


def _row(name: str, outcomes: list[Outcome], counted: list[list[int]]) -> Row:
    by_seed = [[o.waits_s[n] for n in numbers] for o, numbers in zip(outcomes, counted, strict=True)]
    waits = [wait for seed in by_seed for wait in seed]
    apart = [o.apart_s[n] for o, numbers in zip(outcomes, counted, strict=True) for n in numbers]
    hours = sum(o.ended_at for o in outcomes) / 3600
    return Row(
        policy=name,
        p50_s=percentile(waits, 50),
        p95_s=percentile(waits, 95),
        max_s=max(waits),
        mean_s=statistics.mean(waits),
        p95_by_seed_s=[percentile(seed, 95) for seed in by_seed],
        apart_p95_s=percentile(apart, 95),
        swaps=sum(o.swaps for o in outcomes),
        loads=sum(o.loads for o in outcomes),
        wakes=sum(o.wakes for o in outcomes),
        finished_per_hour=sum(o.finished for o in outcomes) / hours,
        refused=sum(o.refused for o in outcomes),
        transition_share=sum(o.transition_s for o in outcomes) / 3600 / hours,
    )


def bounds(cases: int, width: int) -> Iterator[Bound]:
    """The core beside the best schedule found, on the beginnings of traces."""
    for workload in workloads():
        for sleeps in (False, True):
            pool = Pool(workload.models, workload.room, sleeps)
            best, core = [], []
            for seed in range(cases):
                jobs = _from_the_start(workload.trace(seed, SMALL, sleeps=sleeps))
                best.append(Search(pool, jobs, width).best_mean_wait_s())
                core.append(statistics.mean(play(CORE, pool, jobs).waits_s))
            worst = max(c / b for c, b in zip(core, best, strict=True))
            yield Bound(workload.name, sleeps, cases, statistics.mean(best), statistics.mean(core), worst)


def _from_the_start(jobs: list[Job]) -> list[Job]:
    """The same requests, the first at once."""
    return [replace(job, at=job.at - jobs[0].at) for job in jobs]


def figures(found: list[Table], bound: list[Bound]) -> dict[str, Any]:
    """For programs."""
    return {
        "warm_up_s": WARM_UP_S,
        "workloads": [asdict(t) for t in found],
        "offline": [{**asdict(b), "ratio": b.ratio} for b in bound],
    }
