"""The simulation of policies: it repeats itself and loses no request, and the baselines do what they are said to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from arena_server.pool.residency import Residency
from bench.policies.baselines import Lru
from bench.policies.contenders import CORE, FIFO, LRU, LRU_SLEEP, LRU_WHOLE, contenders, play
from bench.policies.offline import Search
from bench.policies.traces import Job, Workload, workloads
from bench.policies.world import Outcome, Pool, World

ROOT = Path(__file__).parents[1]
ONE_OF_TWO = Pool(("a", "b"), 1, sleeps=False)
TWO_OF_THREE = Pool(("a", "b", "c"), 2, sleeps=False)


def single(at: float, model: str, service_s: float = 8.0) -> Job:
    return Job(at, (model,), (service_s,))


def battle(at: float, models: str, *service_s: float) -> Job:
    return Job(at, tuple(models), service_s)


def moves(outcome: Outcome, name: str) -> list[tuple[float, Residency]]:
    return [(at, to) for at, model, to in outcome.log if model == name]


@pytest.mark.parametrize("workload", workloads(), ids=lambda w: w.name)
@pytest.mark.parametrize("sleeps", [False, True], ids=["no sleep", "sleep"])
def test_a_seed_repeats_itself_and_no_request_is_lost(workload: Workload, sleeps: bool) -> None:
    jobs = workload.trace(1, 60, sleeps=sleeps)
    assert jobs == workload.trace(1, 60, sleeps=sleeps)
    assert jobs != workload.trace(2, 60, sleeps=sleeps)
    assert len(jobs) == 60
    pool = Pool(workload.models, workload.room, sleeps)
    for name in contenders(workload, sleeps=sleeps):
        outcome = play(name, pool, jobs)
        assert outcome == play(name, pool, jobs)
        assert outcome.finished + outcome.refused == len(jobs) == len(outcome.waits_s)
        if name != LRU_WHOLE:
            assert outcome.refused == 0
        assert outcome.loads + outcome.wakes <= outcome.swaps + workload.room


def test_lru_lets_the_victim_finish_but_take_nobody_new() -> None:
    # b is asked for while a answers: a's second request has to wait until b came and went.
    jobs = [single(0, "a", 20), single(31, "b", 5), single(32, "a", 5)]
    outcome = play(LRU, ONE_OF_TWO, jobs)
    # a up at 30, busy until 50; stopped 51; b up at 81, busy until 86; stopped 87; a up at 117
    assert outcome.waits_s == [30, 50, 85]
    assert outcome.swaps == 2
    # The core bears with a, which is still awake: only b waits.
    assert play(CORE, ONE_OF_TWO, jobs).waits_s == [30, 50, 0]


def test_lru_takes_an_idle_victim_before_a_busy_one_that_was_used_longer_ago() -> None:
    jobs = [single(0, "a", 100), single(0, "b", 5), single(70, "c")]
    outcome = play(LRU, TWO_OF_THREE, jobs)
    assert outcome.waits_s == [30, 60, 31]
    assert [to for _, to in moves(outcome, "b")][-1] is Residency.COLD
    assert [to for _, to in moves(outcome, "a")][-1] is Residency.AWAKE


def test_lru_grants_all_who_wait_for_a_model_at_once() -> None:
    outcome = play(LRU, ONE_OF_TWO, [single(0, "a"), single(10, "a"), single(29, "a")])
    assert outcome.waits_s == [30, 20, 1]


def test_lru_answers_a_battle_side_by_side_only_by_luck() -> None:
    outcome = play(LRU, TWO_OF_THREE, [battle(0, "ab", 8, 8)])
    assert outcome.waits_s == [60]
    assert outcome.apart_s == [30]
    assert play(CORE, TWO_OF_THREE, [battle(0, "ab", 8, 8)]).apart_s == [0]


def test_lru_with_sleep_wakes_what_it_evicted() -> None:
    jobs = [single(0, "a"), single(50, "b"), single(100, "a")]
    pool = Pool(("a", "b"), 1, sleeps=True)
    asleep = play(LRU_SLEEP, pool, jobs)
    assert asleep.waits_s == [30, 32, 3.5]
    assert (asleep.loads, asleep.wakes, asleep.swaps) == (2, 1, 2)
    cold = play(LRU, pool, jobs)
    assert cold.waits_s == [30, 31, 31]
    assert (cold.loads, cold.wakes, cold.swaps) == (3, 0, 2)


def test_lru_whole_lets_two_battles_starve_each_other() -> None:
    pool = Pool(("a", "b", "c", "d"), 2, sleeps=False)
    jobs = [battle(0, "ab", 8, 8), battle(1, "cd", 8, 8), battle(2, "ac", 8, 8)]
    outcome = World(Lru(pool.models, pool.room, sleeps=False, max_wait_s=600), pool).play(jobs)
    assert outcome.refused > 0
    assert play(CORE, pool, jobs).refused == 0


def test_fifo_lets_nobody_overtake_even_to_an_awake_model() -> None:
    jobs = [single(0, "a", 20), single(31, "b", 5), single(32, "a", 5)]
    outcome = play(FIFO, ONE_OF_TWO, jobs)
    assert outcome.waits_s == [30, 50, 85]
    # Even where there is room for b, the second request for a waits behind it.
    assert play(FIFO, TWO_OF_THREE, jobs).waits_s == [30, 30, 29]
    assert play(LRU, TWO_OF_THREE, jobs).waits_s == [30, 30, 0]


def test_the_bound_is_at_most_what_can_be_done() -> None:
    # Nothing can be done better here: a load, and two swaps.
    jobs = [single(0, "a"), single(50, "b"), single(100, "a")]
    assert Search(ONE_OF_TWO, jobs).best_mean_wait_s() == pytest.approx((30 + 31 + 31) / 3)
    for workload in workloads():
        for sleeps in (False, True):
            trace = workload.trace(0, 8, sleeps=sleeps)
            pool = Pool(workload.models, workload.room, sleeps)
            best = Search(pool, trace).best_mean_wait_s()
            for name in (CORE, FIFO):
                assert best <= sum(play(name, pool, trace).waits_s) / len(trace) + 1e-9


def test_quick_ends_with_its_figures_as_json() -> None:
    command = (sys.executable, "-m", "bench.policies", "--quick", "--json")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert set(last) == {"bench", "figures", "goal", "met", "machine", "versions", "lines"}
    assert last["bench"] == "policies"
    assert last["met"] is (last["figures"]["missed"] == [])
    tables = last["figures"]["workloads"]
    assert len(tables) == 2 * len(workloads()) == len(last["figures"]["offline"])
    for table in tables:
        policies = [row["policy"] for row in table["rows"]]
        assert policies[:2] == [CORE, LRU]
        assert {"p50_s", "p95_s", "max_s", "swaps", "loads", "wakes", "finished_per_hour", "refused"} <= set(
            table["rows"][0]
        )
