"""Which models can be awake at the same time, by the pool's own arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, islice

from arena_server.blueprint import Blueprint
from arena_server.pool.core import PoolCore

# All choices of a few models can be tried; of more, so many of each size, beginning with the smallest models.
MOST_TRIED = 1000


@dataclass(frozen=True, slots=True)
class Togetherness:
    """`sets` are the largest choices that fit (not all, if there are very many); `apart` the pairs that never do.

    `apart` says why, in the pool's words. `refused` has a line for each reason why the pool would not even start.
    """

    sets: tuple[tuple[str, ...], ...] = ()
    pairs: int = 0
    apart: tuple[tuple[str, str, str], ...] = ()
    refused: tuple[str, ...] = ()


def who_fits(blueprint: Blueprint) -> Togetherness:
    """Of all models of a blueprint."""
    core = PoolCore(blueprint.specs, blueprint.budget, blueprint.limits)
    names = [spec.name for spec in blueprint.specs]
    misfits = [(a, b, why) for a, b in combinations(names, 2) if (why := core.misfit((a, b)))]
    by_size = [s.name for s in sorted(blueprint.specs, key=lambda s: max(s.footprint.values()))]
    sets = tuple(tuple(sorted(chosen, key=names.index)) for chosen in _largest(core, by_size))
    return Togetherness(sets, len(names) * (len(names) - 1) // 2, tuple(misfits))


def _largest(core: PoolCore, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The choices of as many as fit."""
    for size in range(len(names), 0, -1):
        choices = islice(combinations(names, size), MOST_TRIED)
        if found := tuple(choice for choice in choices if core.misfit(choice) is None):
            return found
    return ()
