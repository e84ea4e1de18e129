"""Drawing the pair of a blind battle. Pure: who may be drawn, who is awake and the source of chance are given.

With `w` the models' weights and beta the preference for awake models,

    P(pair) = (1 - beta) * P_base(pair) + beta * P_awake(pair)

P_base is in proportion to `w_i * w_j` over all pairs that may be drawn; P_awake is the same, but over those pairs
only that have the most awake models: pairs with both awake, else pairs with one, else all. So no pair's probability
is ever below `1 - beta` of what it would be without the preference, and the ranking can undo it (it weighs each vote
by the inverse of its pair's recorded probability).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import combinations

from arena_server.errors import ArenaError

Pair = tuple[str, str]

LEAST_SHARE = 1e-100


class NoPair(ArenaError):
    """No two models can be drawn for a battle now."""

    status = 409
    kind = "invalid_request_error"
    code = "no_pair"


@dataclass(frozen=True, slots=True)
class Draw:
    """A drawn pair with its sides. `probability` is that of the pair, whichever of the two is `a`."""

    a: str
    b: str
    probability: float


def draw(
    weights: Mapping[str, float],
    may_meet: Callable[[str, str], bool],
    awake: Collection[str],
    awake_preference: float,
    chance: random.Random,
) -> Draw:
    """Draw a pair and its sides; the arguments are those of `probabilities`. Raises NoPair."""
    table = probabilities(weights, may_meet, awake, awake_preference)
    pair = chance.choices(list(table), list(table.values()))[0]
    a, b = pair if chance.random() < 0.5 else pair[::-1]
    return Draw(a, b, table[pair])


def probabilities(
    weights: Mapping[str, float],
    may_meet: Callable[[str, str], bool],
    awake: Collection[str],
    awake_preference: float,
) -> dict[Pair, float]:
    """The probability of each pair that may be drawn; each is above 0, and they add up to 1.

    `weights` are finite and not negative, 0 for a model that is never drawn. `may_meet` says of two models, in the
    order of `weights`, whether they can be drawn together now (both fit, neither has failed). `awake_preference` is
    beta, from 0 to below 1. Raises NoPair where no pair is left.
    """
    if not 0 <= awake_preference < 1:
        raise ValueError(f"awake_preference is {awake_preference}, not from 0 to below 1")
    drawn = [name for name, weight in weights.items() if weight > 0]
    if len(drawn) < 2:
        raise NoPair(f"A battle needs two models that may be drawn, and there {_are(len(drawn))}.")
    # By the greatest, so that the product of two weights cannot leave the range of a float.
    greatest = max(weights[name] for name in drawn)
    base = _shares(
        {(a, b): weights[a] / greatest * (weights[b] / greatest) for a, b in combinations(drawn, 2) if may_meet(a, b)}
    )
    if not base:
        raise NoPair(
            "No two of the models that may be drawn can be awake together now (they do not fit, or their engines fail)."
        )
    most = max(_awake_of(pair, awake) for pair in base)
    preferred = _shares({pair: share for pair, share in base.items() if _awake_of(pair, awake) == most})
    return {
        pair: (1 - awake_preference) * share + awake_preference * preferred.get(pair, 0.0)
        for pair, share in base.items()
    }


def _shares(worth: Mapping[Pair, float]) -> dict[Pair, float]:
    """Each one's part of the whole, without those that would never come up and might round to nothing later on."""
    whole = sum(worth.values())
    return {pair: value / whole for pair, value in worth.items() if value > whole * LEAST_SHARE}


def _awake_of(pair: Pair, awake: Collection[str]) -> int:
    return sum(name in awake for name in pair)


def _are(count: int) -> str:
    return "is only one" if count else "are none"
