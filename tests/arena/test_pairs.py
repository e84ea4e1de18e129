"""Drawing pairs: the recorded probability is the true one, and the preference for awake models keeps its bound."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena_server.arena.pairs import NoPair, draw, probabilities

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 1.0, "d": 0.5, "never": 0.0}


def anybody(_a: str, _b: str) -> bool:
    return True


def test_without_a_preference_a_pair_counts_as_the_product_of_its_weights() -> None:
    table = probabilities({"a": 1, "b": 2, "c": 3}, anybody, {"a", "b"}, 0)
    assert table == pytest.approx({("a", "b"): 2 / 11, ("a", "c"): 3 / 11, ("b", "c"): 6 / 11})


def test_pairs_with_both_awake_are_preferred_within_the_bound() -> None:
    table = probabilities({"a": 1, "b": 1, "c": 1}, anybody, {"a", "b"}, 0.6)
    assert table == pytest.approx({("a", "b"): 0.4 / 3 + 0.6, ("a", "c"): 0.4 / 3, ("b", "c"): 0.4 / 3})


def test_with_one_awake_its_pairs_are_preferred() -> None:
    table = probabilities({"a": 1, "b": 1, "c": 1}, anybody, {"c"}, 0.5)
    assert table == pytest.approx({("a", "b"): 0.5 / 3, ("a", "c"): 0.5 / 3 + 0.25, ("b", "c"): 0.5 / 3 + 0.25})


def test_awake_models_that_cannot_meet_are_not_preferred_to_nothing() -> None:
    table = probabilities({"a": 1, "b": 1, "c": 1}, lambda *pair: pair != ("a", "b"), {"a", "b"}, 0.9)
    assert table == pytest.approx({("a", "c"): 0.5, ("b", "c"): 0.5})


def test_an_awake_model_that_is_never_drawn_changes_nothing() -> None:
    assert probabilities(WEIGHTS, anybody, {"never", "gone"}, 0.9) == probabilities(WEIGHTS, anybody, (), 0)


@given(
    st.dictionaries(st.text(max_size=3), st.floats(0, 1e300), max_size=8),
    st.sets(st.text(max_size=3)),
    st.floats(0, 0.999),
    st.randoms(use_true_random=False),
)
def test_they_add_up_to_one_and_keep_the_bound(
    weights: dict[str, float], awake: set[str], beta: float, chance: random.Random
) -> None:
    apart = {pair for pair in ((a, b) for a in weights for b in weights) if chance.random() < 0.3}

    def may_meet(a: str, b: str) -> bool:
        return (a, b) not in apart

    try:
        base = probabilities(weights, may_meet, (), 0)
    except NoPair:
        with pytest.raises(NoPair):
            probabilities(weights, may_meet, awake, beta)
        return
    table = probabilities(weights, may_meet, awake, beta)
    assert math.fsum(table.values()) == pytest.approx(1)
    assert table.keys() == base.keys()
    for pair, probability in table.items():
        assert 0 < probability <= 1 + 1e-9
        assert probability >= (1 - beta) * base[pair] * (1 - 1e-9)
        assert may_meet(*pair)
        assert all(weights[name] > 0 for name in pair)


def test_pairs_come_as_often_as_recorded_and_on_fair_sides() -> None:
    draws = 20_000
    chance = random.Random(4)
    pairs: Counter[frozenset[str]] = Counter()
    first: Counter[frozenset[str]] = Counter()
    recorded: dict[frozenset[str], float] = {}
    for _ in range(draws):
        one = draw(WEIGHTS, lambda a, b: {a, b} != {"a", "c"}, {"a", "d"}, 0.5, chance)
        pair = frozenset((one.a, one.b))
        pairs[pair] += 1
        first[pair] += one.a < one.b
        assert recorded.setdefault(pair, one.probability) == one.probability
    assert sum(recorded.values()) == pytest.approx(1)
    assert len(recorded) == 5
    for pair, probability in recorded.items():
        # Four standard deviations: one seed in a thousand would fail.
        assert abs(pairs[pair] / draws - probability) < 4 * math.sqrt(probability * (1 - probability) / draws)
        assert abs(first[pair] / pairs[pair] - 0.5) < 4 * 0.5 / math.sqrt(pairs[pair])


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "there are none"),
        ({"a": 1.0, "b": 0.0}, "there is only one"),
        ({"a": 1.0, "b": 1.0}, "can be awake together"),
    ],
)
def test_where_no_pair_is_left_it_says_why(weights: dict[str, float], words: str) -> None:
    with pytest.raises(NoPair, match=words) as caught:
        draw(weights, lambda a, b: False, (), 0, random.Random(0))
    assert caught.value.status == 409
    assert caught.value.code == "no_pair"


@pytest.mark.parametrize("beta", [-0.1, 1, math.nan])
def test_a_preference_that_would_never_draw_some_pairs_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="awake_preference"):
        probabilities(WEIGHTS, anybody, (), beta)
