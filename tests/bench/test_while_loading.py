"""Streams while a model loads: how gaps are judged, where the parts run, and a short run with real vLLM."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import psutil
import pytest

from bench.client import Target
from bench.processes import BenchError
from bench.report import machine, spread
from bench.while_loading.__main__ import Cores, report, share_cores
from bench.while_loading.daemon import paced_engine, pin
from bench.while_loading.rounds import KINDS, Gaps, streams
from tests.bench.program import report_of


def test_half_of_the_cores_are_kept_from_loads() -> None:
    assert share_cores([0, 1]) == Cores(frozenset({0}), frozenset({1}))
    assert share_cores([2, 3, 6]) == Cores(frozenset({2}), frozenset({3, 6}))
    assert share_cores([4]) is None


def test_the_longest_gap_of_whichever_stream_counts() -> None:
    found = Gaps()
    long, short = [0.0, 5.0, 5.03, 5.05, 9.0], [4.9, 5.0, 5.01, 5.02, 5.06]
    found.add("loading", [long, short], 5.01, 5.04)  # the 4 s before and after that are none of it
    assert found.longest_ms["loading"] == pytest.approx([40.0])


def figures(quiet_ms: float, loading_ms: float) -> dict[str, Any]:
    def found() -> dict[str, Any]:
        made = Gaps()
        for kind, ms in (("quiet", quiet_ms), ("loading", loading_ms), ("stopping", quiet_ms)):
            for more in (0.0, 1.0, 900.0):
                made.add(kind, [[5.0, 5.0 + (ms + more) / 1000], [5.0, 5.001]], 5.0, 7.0)
        return made.figures()

    load_s, cores = spread([2.0]), {kind: spread([0.1]) for kind in KINDS}
    return {
        "rounds": 3,
        "pace": 50.0,
        "cores": {"streams": [0], "loads": [1]},
        "paced": {"streams": 16, "load_s": load_s, "daemon_cores": cores, "through": found(), "past": found()},
        "free": {"streams": 2, "load_s": load_s, "through": found()},
    }


def test_it_is_judged_by_the_medians_of_the_paced_streams() -> None:
    good = report(machine(), figures(19.0, 22.9))  # medians 20 and 23.9
    assert good.met
    assert any("10.0% loading" in line for line in good.lines)
    assert good.figures["paced"]["through"]["ratio"] == pytest.approx(1.195)
    assert not report(machine(), figures(19.0, 23.1)).met


def test_a_round_without_a_token_is_an_error() -> None:
    with pytest.raises(BenchError, match="no token came"):
        Gaps().add("quiet", [[1.0]], 0.0, 2.0)


async def test_streams_are_asked_for_again_until_nobody_wants_them() -> None:
    async with paced_engine(1000) as paced:
        async with streams(paced, 2, 5) as answers:
            while len(answers) < 6:
                await paced_answer(paced)
        assert all(len(times) <= 5 for times in answers)
        assert sum(len(times) == 5 for times in answers) >= 6
        with pytest.raises(BenchError):  # an answer without tokens is no answer
            await two_answers_meanwhile(paced, Target("direct", paced.address, token_mark=b"never there"))


async def two_answers_meanwhile(paced: Target, other: Target) -> None:
    async with streams(other, 1, 5):
        await paced_answer(paced)
        await paced_answer(paced)


async def paced_answer(paced: Target) -> None:
    connection = await paced.connect()
    await connection.ask(paced.chat_request(20), 20)
    connection.close()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_what_loads_runs_where_it_is_told_to() -> None:
    before = os.sched_getaffinity(0)
    core = frozenset({min(before)})
    try:
        pin(psutil.Process(), core)
        assert os.sched_getaffinity(0) == core
    finally:
        pin(psutil.Process(), frozenset(before))


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (scripts/setup)")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
async def test_a_short_run_with_real_engines_ends_with_its_figures() -> None:
    found = await report_of("while_loading", "--rounds", "1", "--streams", "2", limit_s=280)
    assert found["bench"] == "while_loading"
    paced, free = found["figures"]["paced"], found["figures"]["free"]
    assert set(paced["through"]["longest_ms_by_round"]) == {"quiet", "loading", "stopping"}
    assert found["met"] == (paced["through"]["ratio"] <= 1.2)
    assert paced["past"]["ratio"] > 0
    assert free["through"]["p99_ms"]["quiet"]["median"] > 0
