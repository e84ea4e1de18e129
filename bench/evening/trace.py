"""What is asked in an evening: battles of two models at given times, the same for every side. Pure.

Arrivals: several people at arena pages, each with exponential gaps between the battles they begin. Open-loop: the next
one comes when it comes, whether or not the last is answered; so two or three are in hand wherever a side falls behind.
Times are in loads, the seconds that a cold load takes on the machine, and the caller makes seconds of them: so the
same trace is as hard on a slow machine as on a fast one.

Pairs: drawn by the arena itself (`arena_server.arena.pairs`), with weights as an operator sets them for models that
people ask more for than others: by Zipf's law, the n-th in 1/n of the draws of the first. Without the preference for
awake models that the daemon's own draws have: it would let each side choose its own trace, and flatter ours.

Which of the two is asked first is drawn, too. Answers have a set number of tokens, the same for both models of a pair.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from arena_server.arena.pairs import draw

PEOPLE = 3
# Mean time between two battles of all people together: by trial, the plain LRU is busy with loads for most of it.
GAP_LOADS = 1.2
LEAST_TOKENS, MOST_TOKENS = 16, 48
PROMPTS = (
    "Tell me about the sea.",
    "What is a lighthouse for?",
    "Name three things that are blue.",
    "Write a line about the moon.",
    "How are you today?",
    "Who lives in the forest?",
)


@dataclass(frozen=True, slots=True)
class Battle:
    """Two models are asked the same at `at_loads` (in cold loads, from the beginning of its block)."""

    number: int
    at_loads: float
    models: tuple[str, str]
    prompt: str
    tokens: int


def evening(models: Sequence[str], battles: int, blocks: int, seed: int) -> list[list[Battle]]:
    """So many battles over the models, the most asked for first, in blocks of (nearly) one length."""
    chance = random.Random(seed)
    weights = {name: 1 / rank for rank, name in enumerate(models, 1)}
    cuts = [battles * number // blocks for number in range(blocks + 1)]
    made = []
    for first, end in itertools.pairwise(cuts):
        times = arrivals(end - first, chance)
        made.append([_battle(number, at, weights, chance) for number, at in enumerate(times, first)])
    return made


def arrivals(count: int, chance: random.Random) -> list[float]:
    """The times of the first so many battles that the people begin, in loads."""
    clocks = [0.0] * PEOPLE
    times: list[float] = []
    for person in range(PEOPLE):
        for _ in range(count):  # nobody can have begun more of them than that
            clocks[person] += chance.expovariate(1 / (GAP_LOADS * PEOPLE))
            times.append(clocks[person])
    return sorted(times)[:count]


def _battle(number: int, at_loads: float, weights: dict[str, float], chance: random.Random) -> Battle:
    pair = draw(weights, lambda a, b: True, (), 0.0, chance)
    return Battle(number, at_loads, (pair.a, pair.b), chance.choice(PROMPTS), chance.randint(LEAST_TOKENS, MOST_TOKENS))
