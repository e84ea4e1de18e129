"""The evening's benchmark: its verdict, and a short one. What it measures is no test's business."""

from __future__ import annotations

import importlib.util

import pytest

from bench.evening.asking import Answered
from bench.evening.contenders import Arena, Lru
from bench.evening.judge import Found, judged, missed
from bench.evening.pairs import InUse
from bench.evening.play import Evening
from bench.evening.trace import evening
from bench.report import machine
from tests.bench.program import report_of

MODELS = ["one", "two", "three", "four", "five", "six"]


def an_evening(waits_s: list[float], loads: int, refusals: list[str] | None = None) -> Evening:
    answered = [Answered((wait_s / 2, wait_s), wait_s + 1) for wait_s in waits_s]
    return Evening([answered], [loads], [60.0], refusals or [])


def test_the_goal_is_the_p95_wait_the_loads_and_no_refusal() -> None:
    theirs = an_evening([1.0] * 18 + [8.0, 20.0], 30)  # p95: the 19th of 20
    assert missed(an_evening([2.0] * 18 + [8.0, 99.0], 30), theirs) == []
    assert "p95" in missed(an_evening([1.0] * 18 + [8.1, 9.0], 30), theirs)[0]
    assert "31 loads" in missed(an_evening([1.0] * 20, 31), theirs)[0]
    assert "refused" in missed(an_evening([1.0] * 20, 30, ["battle 3: 503"]), theirs)[0]
    assert missed(an_evening([], 30), theirs)


def test_the_report_has_raw_waits_and_the_ratios() -> None:
    found = Found(unit_s=2.0)
    for name, wait_s in ((Arena.name, 3.0), (Lru.name, 6.0)):
        pair = Answered((wait_s - 1, wait_s), wait_s + 1)
        found.load_s[name].append(wait_s)
        found.cold[name].append(pair)
        found.in_use[name].append(InUse(pair, wait_s))
        found.evenings[name] = an_evening([wait_s] * 8, int(wait_s))
    report = judged(machine(), found, MODELS, evening(MODELS, 8, 1, seed=1), 1)
    assert report.met
    assert report.figures["ratios"] == {
        "load_s": 0.5, "cold_pair_s": 0.5, "pair_in_use_s": 0.5, "wait_p50": 0.5, "wait_p95": 0.5, "loads": 0.5
    }  # fmt: skip
    assert report.figures["evening"][Arena.name]["wait_s"] == [[3.0] * 8]
    assert any("same zygote" in line or "arena-server's zygote" in line for line in report.lines)


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (scripts/setup)")
async def test_a_short_evening_ends_with_its_figures_as_json() -> None:
    last = await report_of("evening", "--battles", "2", "--runs", "0", limit_s=160)
    assert last["bench"] == "evening"
    figures = last["figures"]
    assert len(figures["models"]) == 6
    assert figures["room"] == 3
    for name in (Arena.name, Lru.name):
        assert len(figures["load_s"][name]) == 1
        found = figures["evening"][name]
        assert [wait > 0 for block in found["wait_s"] for wait in block] == [True] * 2
        assert sum(found["loads"]) >= 2
        assert found["refusals"] == []
    assert last["met"] == (not figures["missed"])
