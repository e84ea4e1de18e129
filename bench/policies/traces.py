"""What is asked for, and when: the workloads, as traces drawn from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SMALL = 12  # requests that an exhaustive search can bear
SERVICE_S = 8.0  # the mean answer
SERVICE_SIGMA = 0.6  # of its logarithm


@dataclass(frozen=True, slots=True)
class Job:
    """One request: a model, or two for a battle; and how long each side's answer takes."""

    at: float
    models: tuple[str, ...]
    service_s: tuple[float, ...]


Draw = Callable[[random.Random], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of traffic on a pool with room for some of its models.

    `rates` are requests per second where models cannot sleep, and where they can.
    """

    name: str
    models: tuple[str, ...]
    room: int
    rates: tuple[float, float]
    make: Callable[[random.Random, int, float], list[Job]]

    @property
    def battles(self) -> bool:
        """Whether its requests want two models at once."""
        return len(self.trace(0, 1, sleeps=False)[0].models) > 1

    def trace(self, seed: int, count: int, *, sleeps: bool) -> list[Job]:
        """`count` requests; the same for the same seed."""
        return self.make(random.Random(f"{self.name}/{sleeps}/{seed}"), count, self.rates[sleeps])


def service_s(rng: random.Random) -> float:
    """How long one answer takes."""
    return rng.lognormvariate(math.log(SERVICE_S) - SERVICE_SIGMA**2 / 2, SERVICE_SIGMA)


def poisson(rng: random.Random, count: int, rate: float, draw: Draw) -> list[Job]:
    """Independent requests at a steady rate."""
    jobs, now = [], 0.0
    for _ in range(count):
        now += rng.expovariate(rate)
        models = draw(rng)
        jobs.append(Job(now, models, tuple(service_s(rng) for _ in models)))
    return jobs


def bursts(rng: random.Random, count: int, rate: float, draw: Draw) -> list[Job]:
    """Groups of about ten requests within a few seconds, and silence between; most of a group want the same."""
    jobs: list[Job] = []
    now, size = 0.0, 10.0
    while len(jobs) < count:
        now += rng.expovariate(rate / size)
        favourite = draw(rng)
        for _ in range(1 + min(int(rng.expovariate(1 / size)), count - len(jobs) - 1)):
            models = favourite if rng.random() < 0.7 else draw(rng)
            jobs.append(Job(now + rng.uniform(0, 5), models, tuple(service_s(rng) for _ in models)))
    return sorted(jobs, key=lambda job: job.at)


def in_use(jobs: Sequence[Job], models: Sequence[str]) -> float:
    """How many models would be in use at once on average, were all always awake."""
    total = 0.0
    for name in models:
        until = 0.0
        for job in jobs:
            for model, takes in zip(job.models, job.service_s, strict=True):
                if model == name:
                    total += max(0.0, job.at + takes - max(until, job.at))
                    until = max(until, job.at + takes)
    return total / jobs[-1].at


def _names(count: int) -> tuple[str, ...]:
    return tuple("abcdefgh"[:count])


def _one_of(models: Sequence[str], weights: Sequence[float] | None = None) -> Draw:
    return lambda rng: tuple(rng.choices(models, weights))


def _two_of(models: Sequence[str]) -> Draw:
    return lambda rng: tuple(rng.sample(models, 2))


def _steady(draw: Draw) -> Callable[[random.Random, int, float], list[Job]]:
    return lambda rng, count, rate: poisson(rng, count, rate, draw)


def _bursty(draw: Draw) -> Callable[[random.Random, int, float], list[Job]]:
    return lambda rng, count, rate: bursts(rng, count, rate, draw)


def workloads() -> list[Workload]:
    """All of them."""
    a2, a3, a4, a6 = _names(2), _names(3), _names(4), _names(6)
    return [
        Workload("singles, 2 of 3", a3, 2, (1 / 15, 1 / 4), _steady(_one_of(a3))),
        Workload("pairs, 3 of 6", a6, 3, (1 / 60, 1 / 15), _steady(_two_of(a6))),
        Workload("hot and rare, 1 of 2", a2, 1, (1 / 6, 1 / 4), _steady(_one_of(a2, (0.95, 0.05)))),
        Workload("hot and rare, 2 of 3", a3, 2, (1 / 6, 1 / 3), _steady(_one_of(a3, (0.9, 0.05, 0.05)))),
        Workload("bursts, 2 of 4", a4, 2, (1 / 15, 1 / 4), _bursty(_one_of(a4))),
        Workload("bursts of pairs, 3 of 6", a6, 3, (1 / 40, 1 / 10), _bursty(_two_of(a6))),
    ]
