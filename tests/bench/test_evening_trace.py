"""What is asked in an evening: when, of whom, and the same for every side."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bench.evening.trace import GAP_LOADS, LEAST_TOKENS, MOST_TOKENS, arrivals, evening

MODELS = ["one", "two", "three", "four", "five", "six"]


def test_a_seed_makes_one_evening_and_another_seed_another() -> None:
    assert evening(MODELS, 20, 4, seed=1) == evening(MODELS, 20, 4, seed=1)
    assert evening(MODELS, 20, 4, seed=1) != evening(MODELS, 20, 4, seed=2)


def test_the_blocks_are_the_whole_evening_and_each_begins_anew() -> None:
    blocks = evening(MODELS, 203, 4, seed=1)
    assert [len(block) for block in blocks] == [50, 51, 51, 51]
    assert [battle.number for block in blocks for battle in block] == list(range(203))
    for block in blocks:
        times = [battle.at_loads for battle in block]
        assert times == sorted(times)
        assert 0 < times[0] < 10 * GAP_LOADS


def test_battles_are_of_two_models_and_of_the_popular_ones_more_often() -> None:
    battles = [battle for block in evening(MODELS, 2000, 4, seed=1) for battle in block]
    asked = Counter(model for battle in battles for model in battle.models)
    assert all(len(set(battle.models)) == 2 for battle in battles)
    assert all(LEAST_TOKENS <= battle.tokens <= MOST_TOKENS for battle in battles)
    assert [model for model, _ in asked.most_common()] == MODELS
    first = Counter(battle.models[0] == min(battle.models, key=MODELS.index) for battle in battles)
    assert 0.4 < first[True] / len(battles) < 0.6  # the popular one is not always the one asked first


def test_people_come_at_the_rate_that_is_said() -> None:
    times = arrivals(3000, random.Random(1))
    assert times[-1] / 3000 == pytest.approx(GAP_LOADS, rel=0.1)
