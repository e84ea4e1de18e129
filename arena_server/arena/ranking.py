"""Strengths of models from votes: Bradley-Terry on Elo's scale, with bootstrap intervals.

numpy and scipy take long to import: this runs in a process of its own (`ranking_process`), never in the daemon.

The model (Bradley and Terry 1952, Biometrika 39:324): of two models with strengths `s`, the first wins with
probability `1 / (1 + exp(s_second - s_first))`. A tie and "both bad" are half a win for each. The strengths are the
most likely ones under

- a weight for each vote. A pair that was drawn with probability p counts as 1/p, in units of the mean over all drawn
  votes, so that the ratings are those that evenly drawn pairs would give, whatever the weights and the preference for
  awake models were (Horvitz and Thompson 1952, JASA 47:663). At most `MOST_WEIGHT`: a few votes of a rare pair must
  not outshout all others. Votes on pairs that somebody named weigh 1. Weights are rounded to steps of 1 %, so that
  the work grows with the number of pairs, not with that of votes;
- two virtual votes for each model, a win and a loss against a model of average strength (Laplace's rule of succession),
  and a normal distribution of `PRIOR_SD` (700 points) around that strength. So the strengths of models that have won
  or lost all their votes are finite, and models between which no chain of votes leads can be compared. After some
  dozens of votes nothing of it is seen.

The intervals are percentiles over bootstrap rounds (Efron 1979, Ann. Stat. 7:1): as many votes as there are, the
virtual ones among them, are drawn from them with replacement, which is a multinomial draw of the counts, and all is
fitted anew. The virtual votes must be among them: rounds drawn from nothing but wins would all be alike, and the
interval of a model that has won its only two votes a point. All rounds are fitted as one problem, as their
likelihoods add up.

A rating is `1000 + 400 / ln 10 * (s - mean)`; the mean is over votes, not models, so that a new model with a vote or
two does not shift the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from arena_server.store.records import Vote, VoteCount

MEAN = 1000.0
POINTS = 400 / math.log(10)
PRIOR_SD = 4.0
MOST_WEIGHT = 10.0
WEIGHT_STEP = 1.01
LEAST_PROBABILITY = 1e-9  # against a record that cannot be
GOOD_HALF_WIDTH = 25.0
INTERVAL = (2.5, 97.5)  # percent
CLOSE = 1e-3  # standard errors from the best fit: where it ends
FAR = 0.02  # strength from the best fit (3.5 points) that would be wrong
MOST_STEPS = 1000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SCORES = {Vote.A: 1.0, Vote.B: 0.0, Vote.TIE: 0.5, Vote.BOTH_BAD: 0.5}


@dataclass(frozen=True, slots=True)
class Standing:
    """One model's place. Of a model without votes, `rank`, the ratings and `votes_needed` are None.

    `rank` is one more than the number of models whose interval lies wholly above this one's. `lower` and `upper` are
    the 95 % interval of `rating`. `votes_needed` is how many more votes it would take, as the interval narrows with
    their square root, until its half width is `GOOD_HALF_WIDTH`.
    """

    model: str
    rank: int | None
    rating: float | None
    lower: float | None
    upper: float | None
    votes: int
    wins: int
    losses: int
    ties: int
    both_bad: int
    votes_needed: int | None


@dataclass(frozen=True, slots=True)
class PairTally:
    """What was said of two models; `a` is the higher rated one, on whichever side it was."""

    a: str
    b: str
    a_wins: int
    b_wins: int
    ties: int
    both_bad: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """The standings, best first and models without votes last, and the tallies of the pairs that have any."""

    votes: int
    models: Sequence[Standing]
    pairs: Sequence[PairTally]


def rank(counts: Sequence[VoteCount], rounds: int, seed: int, names: Sequence[str] = ()) -> Ranking:
    """Rank all models that have votes; `names` are listed also if they have none. The same input gives the same."""
    counts = [c for c in counts if c.count > 0]
    results = _by_model(counts)
    standings = _standings(counts, results, rounds, np.random.default_rng(seed)) if counts else []
    standings.sort(key=lambda standing: -(standing.rating or 0))
    place = {standing.model: number for number, standing in enumerate(standings)}
    without = [_without_votes(name) for name in dict.fromkeys(names) if name not in place]
    return Ranking(sum(c.count for c in counts), standings + without, _tallies(counts, place))


def _standings(
    counts: Sequence[VoteCount], results: Mapping[str, Counter[str]], rounds: int, chance: np.random.Generator
) -> list[Standing]:
    names = sorted(results)
    cells = _cells(counts, {name: number for number, name in enumerate(names)})
    strengths, sampled = _strengths(cells, len(names), rounds, chance)
    share = np.array([results[name].total() for name in names], dtype=float)
    share /= share.sum()
    ratings = MEAN + POINTS * (strengths - strengths @ share)
    bounds = np.percentile(MEAN + POINTS * (sampled - (sampled @ share)[:, None]), INTERVAL, axis=0)
    lower, upper = np.minimum(bounds[0], ratings), np.maximum(bounds[1], ratings)
    return [
        _standing(name, results[name], 1 + int(np.sum(lower > upper[i])), (ratings[i], lower[i], upper[i]))
        for i, name in enumerate(names)
    ]


def _by_model(counts: Sequence[VoteCount]) -> dict[str, Counter[str]]:
    """What each model got: `wins`, `losses`, `ties`, `both_bad`."""
    results: dict[str, Counter[str]] = {}
    for c in counts:
        for name, won in ((c.a, Vote.A), (c.b, Vote.B)):
            what = {Vote.TIE: "ties", Vote.BOTH_BAD: "both_bad", won: "wins"}.get(c.vote, "losses")
            results.setdefault(name, Counter())[what] += c.count
    return results


def _tallies(counts: Sequence[VoteCount], place: Mapping[str, int]) -> list[PairTally]:
    pairs: dict[tuple[str, str], Counter[str]] = {}
    for c in counts:
        turned = place[c.a] > place[c.b]
        pair = (c.b, c.a) if turned else (c.a, c.b)
        what = {Vote.TIE: "ties", Vote.BOTH_BAD: "both_bad", Vote.B if turned else Vote.A: "a_wins"}
        pairs.setdefault(pair, Counter())[what.get(c.vote, "b_wins")] += c.count
    found = sorted(pairs.items(), key=lambda item: (place[item[0][0]], place[item[0][1]]))
    return [PairTally(*pair, n["a_wins"], n["b_wins"], n["ties"], n["both_bad"]) for pair, n in found]


def _standing(name: str, got: Counter[str], rank: int, rating: tuple[float, float, float]) -> Standing:
    """`rating` with its interval."""
    votes = got.total()
    middle, lower, upper = map(float, rating)
    needed = max(math.ceil(votes * ((upper - lower) / 2 / GOOD_HALF_WIDTH) ** 2) - votes, 0)
    results = got["wins"], got["losses"], got["ties"], got["both_bad"]
    return Standing(name, rank, middle, lower, upper, votes, *results, votes_needed=needed)


def _without_votes(name: str) -> Standing:
    return Standing(name, None, None, None, None, 0, 0, 0, 0, 0, None)


@dataclass(frozen=True, slots=True)
class _Cells:
    """Votes that count alike: of the pair `first`, `second`, with this score of the first, at this weight.

    Models go by number, sorted by pair; the average model's number is the last.
    """

    first: Ints
    second: Ints
    score: Floats
    weight: Floats
    count: Ints


def _cells(counts: Sequence[VoteCount], number: Mapping[str, int]) -> _Cells:
    """The votes summed up, and the virtual ones."""
    drawn = [c for c in counts if c.probability is not None]
    mean = sum(float(c.count) / _probability(c) for c in drawn) / max(sum(c.count for c in drawn), 1)
    cells: Counter[tuple[int, int, float, float]] = Counter()
    for c in counts:
        weight = 1.0 if c.probability is None else _rounded(min(1 / _probability(c) / mean, MOST_WEIGHT))
        first, second, score = number[c.a], number[c.b], SCORES[c.vote]
        if first > second:
            first, second, score = second, first, 1 - score
        cells[first, second, score, weight] += c.count
    average = len(number)
    cells.update({(model, average, score, 1.0): 1 for model in range(average) for score in (1.0, 0.0)})
    found = sorted(cells)
    first_, second_, scores, weights = np.array(found, dtype=float).T
    count = np.array([cells[cell] for cell in found], dtype=np.int64)
    return _Cells(first_.astype(np.int64), second_.astype(np.int64), scores, weights, count)


def _probability(count: VoteCount) -> float:
    return max(count.probability or 0.0, LEAST_PROBABILITY)


def _rounded(weight: float) -> float:
    return float(WEIGHT_STEP ** round(math.log(weight, WEIGHT_STEP)))


def _strengths(cells: _Cells, models: int, rounds: int, chance: np.random.Generator) -> tuple[Floats, Floats]:
    """The strengths over that of the average model, and those of each bootstrap round (a row each)."""
    starts = np.flatnonzero(np.diff(cells.first, prepend=-1) | np.diff(cells.second, prepend=-1))
    numbers = np.arange(models)
    signs = (cells.first[starts, None] == numbers).astype(float) - (cells.second[starts, None] == numbers)

    def fit(counts: Ints, start: Floats) -> Floats:
        worth = counts * cells.weight
        won, lost = (np.add.reduceat(of, starts, axis=1) for of in (worth * cells.score, worth * (1 - cells.score)))
        return _fit(signs, won, lost, start)

    best = fit(cells.count[None], np.zeros(models))[0]
    total = int(cells.count.sum())
    return best, fit(chance.multinomial(total, cells.count / total, size=rounds), best)


def _fit(signs: Floats, won: Floats, lost: Floats, start: Floats) -> Floats:
    """The most likely strengths, a row for each row of `won` and `lost` (the votes for and against each pair's first).
    `signs` has a row for each pair: 1 at its first, -1 at its second. All begin at `start`."""
    rounds, models = len(won), len(start)
    worth = won + lost
    even = _chances(start @ signs.T)
    bend = signs.T @ (signs * (worth.mean(axis=0) * even * (1 - even))[:, None]) + np.eye(models) / PRIOR_SD**2
    # In units of each direction's standard error the problem is round, and L-BFGS needs few steps.
    unit = np.linalg.inv(np.linalg.cholesky(bend))

    def loss(steps: Floats) -> tuple[float, Floats]:
        strengths = start + steps.reshape(rounds, models) @ unit
        gaps, off = strengths @ signs.T, strengths / PRIOR_SD
        value = np.sum(won * np.logaddexp(0, -gaps) + lost * np.logaddexp(0, gaps)) + np.sum(off**2) / 2
        slope = (worth * _chances(gaps) - won) @ signs + off / PRIOR_SD
        return float(value), (slope @ unit.T).ravel()

    options = {"gtol": CLOSE, "ftol": 0, "maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS}
    found = minimize(loss, np.zeros(rounds * models), jac=True, method="L-BFGS-B", options=options)
    steps, slope = (np.asarray(of, dtype=float).reshape(rounds, models) @ unit for of in (found.x, found.jac))
    if not np.abs(slope).max() < FAR:
        raise RuntimeError(f"the ratings cannot be fitted: {found.message}")
    return start + steps


def _chances(gaps: Floats) -> Floats:
    """How probably the first wins; without overflow at any gap."""
    return np.asarray(np.exp(-np.logaddexp(0, -gaps)))
