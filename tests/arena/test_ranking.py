"""The ranking against worlds whose strengths are known, and where there is little or odd evidence."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

import pytest

from arena_server.arena.pairs import draw
from arena_server.arena.ranking import GOOD_HALF_WIDTH, POINTS, Ranking, Standing, rank
from arena_server.store.records import Vote, VoteCount

ROUNDS = 500
# The weights, the bound and the awake pair that draws are made with: some pairs come 40 times as often as others.
WEIGHTS = (3.0, 1.0, 0.4, 1.0, 2.0, 0.5)
AWAKE_PREFERENCE = 0.5


def count(a: str, b: str, vote: Vote, number: int = 1, probability: float | None = None) -> VoteCount:
    return VoteCount(a, b, vote, probability, number)


def by_name(ranking: Ranking) -> dict[str, Standing]:
    return {standing.model: standing for standing in ranking.models}


def rated(standing: Standing) -> tuple[float, float, float]:
    """Lower bound, rating, upper bound."""
    assert standing.lower is not None
    assert standing.rating is not None
    assert standing.upper is not None
    return standing.lower, standing.rating, standing.upper


def told(first: float, chance: random.Random) -> Vote:
    """A vote on a pair whose first wins that often, a tie as half: of three even votes about one is no win."""
    ties = 0.6 * min(first, 1 - first)
    drawn = chance.random()
    if drawn < ties:
        return Vote.TIE if drawn < ties / 2 else Vote.BOTH_BAD
    return Vote.A if drawn < ties / 2 + first else Vote.B


def beats(strengths: Mapping[str, float], a: str, b: str) -> float:
    return 1 / (1 + math.exp(strengths[b] - strengths[a]))


def drawn_votes(
    models: Mapping[str, float], number: int, chance: random.Random, wins: Mapping[tuple[str, str], float]
) -> list[VoteCount]:
    """Votes on pairs drawn unevenly, now with these two models awake, now with those. `wins` is how often a beats b."""
    weights = dict(zip(models, WEIGHTS, strict=False))
    votes: Counter[tuple[str, str, Vote, float]] = Counter()
    names = list(models)
    for i in range(number):
        awake = names[:2] if i % 3 else chance.sample(names, 2)
        one = draw(weights, lambda a, b: True, awake, AWAKE_PREFERENCE, chance)
        votes[one.a, one.b, told(wins[one.a, one.b], chance), one.probability] += 1
    return [VoteCount(*key, number) for key, number in votes.items()]


def centred(strengths: Mapping[str, float], ranking: Ranking) -> dict[str, float]:
    """The strengths as ratings: 1000 is the mean over votes."""
    found = by_name(ranking)
    total = sum(s.votes for s in found.values())
    mean = sum(strength * found[name].votes for name, strength in strengths.items()) / total
    return {name: 1000 + POINTS * (strength - mean) for name, strength in strengths.items()}


@pytest.mark.parametrize(("models", "votes", "worlds"), [(3, 30, 80), (4, 200, 60), (6, 800, 30)])
def test_known_strengths_lie_within_the_intervals_95_times_in_100(models: int, votes: int, worlds: int) -> None:
    chance = random.Random(models)
    hits = []
    for seed in range(worlds):
        strengths = {f"m{i}": chance.gauss(0, 0.8) for i in range(models)}
        wins = {(a, b): beats(strengths, a, b) for a in strengths for b in strengths}
        ranking = rank(drawn_votes(strengths, votes, chance, wins), ROUNDS, seed)
        truth = centred(strengths, ranking)
        for standing in ranking.models:
            lower, _, upper = rated(standing)
            hits.append(lower <= truth[standing.model] <= upper)
    assert 0.90 <= sum(hits) / len(hits) <= 0.99


def test_many_votes_recover_the_strengths_and_their_order() -> None:
    strengths = {f"m{i}": i * 0.4 for i in range(6)}
    wins = {(a, b): beats(strengths, a, b) for a in strengths for b in strengths}
    ranking = rank(drawn_votes(strengths, 20_000, random.Random(1), wins), ROUNDS, 0)
    truth = centred(strengths, ranking)
    for standing in ranking.models:
        lower, rating, upper = rated(standing)
        assert abs(rating - truth[standing.model]) < 30
        assert upper - lower < 60
    assert [s.model for s in ranking.models] == sorted(strengths, reverse=True)
    assert [s.rank for s in ranking.models] == [1, 2, 3, 4, 5, 6]
    mean = sum(rated(s)[1] * s.votes for s in ranking.models) / sum(s.votes for s in ranking.models)
    assert mean == pytest.approx(1000)


def test_uneven_draws_are_undone_by_their_recorded_probabilities() -> None:
    """m0 beats all but m1, which all others beat: the ratings depend on which pairs meet, and these two, mostly awake,
    meet far too often."""
    names = [f"m{i}" for i in range(5)]
    wins = dict.fromkeys(((a, b) for a in names for b in names), 0.5)
    for other in names[2:]:
        wins |= {("m0", other): 0.85, (other, "m0"): 0.15, (other, "m1"): 0.85, ("m1", other): 0.15}
    wins |= {("m1", "m0"): 0.85, ("m0", "m1"): 0.15}
    votes = drawn_votes(dict.fromkeys(names, 0.0), 20_000, random.Random(2), wins)
    even = [count(a, b, v, round(1e6 * p)) for a in names for b in names if a < b for v, p in sides(wins[a, b])]
    truth, weighed, plain = (
        {name: rated(standing)[1] for name, standing in by_name(rank(counts, 1, 0)).items()}
        for counts in (even, votes, [VoteCount(c.a, c.b, c.vote, None, c.count) for c in votes])
    )
    assert most_apart(weighed, truth) < 20
    assert most_apart(plain, truth) > 100


def sides(first: float) -> Iterable[tuple[Vote, float]]:
    return (Vote.A, first), (Vote.B, 1 - first)


def most_apart(ratings: Mapping[str, float], truth: Mapping[str, float]) -> float:
    """Between the gaps to m0, as the two have different means."""
    return max(abs((ratings[n] - ratings["m0"]) - (truth[n] - truth["m0"])) for n in truth)


def test_a_rare_draw_counts_at_most_as_ten_votes() -> None:
    votes = [count("a", "b", Vote.A, 1000, 0.5), count("a", "b", Vote.B, 10, 0.01)]
    mean = (1000 / 0.5 + 10 / 0.01) / 1010
    capped = [count("a", "b", Vote.A, round(1000 / 0.5 / mean)), count("a", "b", Vote.B, 10 * 10)]
    assert rated(rank(votes, 1, 0).models[0])[1] == pytest.approx(rated(rank(capped, 1, 0).models[0])[1], abs=2)


def test_named_pairs_count_as_the_average_drawn_one() -> None:
    drawn = [count("a", "b", Vote.A, 300, 0.1), count("b", "a", Vote.A, 100, 0.1)]
    named = [count("a", "b", Vote.A, 300), count("b", "a", Vote.A, 100)]
    assert rank(drawn, 20, 0) == rank(named, 20, 0)


def test_a_tie_and_both_bad_are_half_a_win_each() -> None:
    ties = rank([count("a", "b", Vote.TIE, 20), count("b", "a", Vote.BOTH_BAD, 20), count("a", "b", Vote.A, 20)], 1, 0)
    halves = rank([count("a", "b", Vote.A, 40), count("a", "b", Vote.B, 20)], 1, 0)
    assert rated(ties.models[0])[1] == pytest.approx(rated(halves.models[0])[1], abs=0.1)


def test_odds_of_ten_to_one_are_400_points() -> None:
    ranking = rank([count("a", "b", Vote.A, 100_000), count("b", "a", Vote.A, 10_000)], 1, 0)
    first, second = ranking.models
    assert rated(first)[1] - rated(second)[1] == pytest.approx(400, abs=0.5)
    assert rated(first)[1] + rated(second)[1] == pytest.approx(2000)


def test_results_are_counted_whatever_the_sides() -> None:
    ranking = rank(
        [
            count("x", "y", Vote.A, 5),
            count("y", "x", Vote.B, 4, 0.3),
            count("y", "x", Vote.A, 2),
            count("y", "x", Vote.TIE, 3),
            count("x", "y", Vote.BOTH_BAD, 1),
            count("x", "z", Vote.B, 1),
            count("z", "y", Vote.TIE, 0),
        ],
        ROUNDS,
        0,
        ["z", "new", "new"],
    )
    found = by_name(ranking)
    x, y = found["x"], found["y"]
    assert ranking.votes == 16
    assert (x.votes, x.wins, x.losses, x.ties, x.both_bad) == (16, 9, 3, 3, 1)
    assert (y.votes, y.wins, y.losses, y.ties, y.both_bad) == (15, 2, 9, 3, 1)
    assert len(ranking.pairs) == 2
    (pair,) = [p for p in ranking.pairs if "y" in (p.a, p.b)]
    assert (pair.a, pair.b, pair.a_wins, pair.b_wins, pair.ties, pair.both_bad) == ("x", "y", 9, 2, 3, 1)
    assert [s.model for s in ranking.models].index("new") == 3
    assert found["new"] == Standing("new", None, None, None, None, 0, 0, 0, 0, 0, None)


def test_no_votes_are_no_ranking() -> None:
    assert rank([], ROUNDS, 0) == Ranking(0, [], [])
    assert [(s.model, s.rank) for s in rank([], ROUNDS, 0, ["b", "a"]).models] == [("b", None), ("a", None)]


def test_one_vote_says_next_to_nothing() -> None:
    first, second = rank([count("a", "b", Vote.B)], ROUNDS, 0).models
    assert (first.model, second.model) == ("b", "a")
    assert (first.rank, second.rank) == (1, 1)
    lower, rating, upper = rated(first)
    assert lower < rated(second)[1] < 1000 < rating < upper
    assert first.votes_needed is not None
    assert first.votes_needed > 50


def test_three_wins_of_three_are_no_proof_but_thirty_are() -> None:
    assert [s.rank for s in rank([count("a", "b", Vote.A, 3)], ROUNDS, 0).models] == [1, 1]
    first, second = rank([count("a", "b", Vote.A, 30)], ROUNDS, 0).models
    assert (first.rank, second.rank) == (1, 2)
    lower, rating, upper = rated(first)
    assert lower < rating < upper < 2000


def test_nothing_but_ties_leaves_all_at_the_mean() -> None:
    for standing in rank([count("a", "b", Vote.TIE, 50), count("b", "c", Vote.BOTH_BAD, 50)], ROUNDS, 0).models:
        lower, rating, upper = rated(standing)
        assert rating == pytest.approx(1000, abs=0.1)
        assert lower < 1000 < upper
        assert standing.rank == 1


def test_models_that_no_chain_of_votes_joins_are_not_told_apart() -> None:
    ranking = rank([count("a", "b", Vote.A, 40), count("c", "d", Vote.A, 20), count("d", "c", Vote.A, 20)], ROUNDS, 0)
    found = by_name(ranking)
    assert [found[name].rank for name in "cd"] == [1, 1]
    assert found["a"].rank == 1
    assert found["b"].rank == 2


@pytest.mark.parametrize("number", [10**6, 10**12])
def test_any_number_of_votes_gives_numbers(number: int) -> None:
    for standing in rank([count("a", "b", Vote.A, number, 0.5), count("b", "c", Vote.A, 1, 1e-12)], 50, 0).models:
        assert all(math.isfinite(value) for value in rated(standing))


def test_a_new_model_does_not_shift_the_others() -> None:
    votes = [count("a", "b", Vote.A, 600), count("b", "a", Vote.A, 400)]
    before = rated(by_name(rank(votes, ROUNDS, 0))["a"])
    after = rated(by_name(rank([*votes, count("a", "new", Vote.A)], ROUNDS, 0))["a"])
    assert after == pytest.approx(before, abs=3)


def test_votes_needed_is_what_makes_the_interval_narrow() -> None:
    (first, _) = rank([count("a", "b", Vote.A, 60), count("b", "a", Vote.A, 40)], 1000, 0).models
    assert first.votes_needed is not None
    times = (100 + first.votes_needed) / 100
    more = [count("a", "b", Vote.A, round(60 * times)), count("b", "a", Vote.A, round(40 * times))]
    (first, _) = rank(more, 1000, 0).models
    lower, _, upper = rated(first)
    assert (upper - lower) / 2 == pytest.approx(GOOD_HALF_WIDTH, rel=0.1)


def test_names_are_only_names() -> None:
    odd = ["", "org/Model:7b \u202e<script>", "\n", "a" * 300]
    votes = [count(a, b, Vote.A) for a, b in pairwise(odd)]
    assert {s.model for s in rank(votes, 20, 0).models} == set(odd)


def test_the_order_of_the_counts_does_not_matter() -> None:
    votes = [count("a", "b", Vote.A, 6, 0.2), count("b", "a", Vote.TIE, 3, 0.1), count("c", "a", Vote.B, 2)]
    assert rank(votes, 50, 7) == rank(votes[::-1], 50, 7)
