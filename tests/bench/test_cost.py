"""The benchmark of the daemon's own cost works, says what it promises, and is judged by the goal alone."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from bench import cost, stand_in
from bench.bare_app import Beat, events_of
from bench.cost_memory import figures_of
from bench.cost_sides import Memory
from bench.own_cpu import own_cpu_s
from bench.report import machine, spread
from tests.bench.program import report_of

QUICK = ("--launches", "1", "--idle", "0.6", "--streams", "5", "10", "--rounds", "1", "--seconds", "0.5")


async def test_it_ends_with_its_figures_as_json() -> None:
    report = await report_of("cost", *QUICK, "--engine-start", "spawn", limit_s=300)
    assert report["bench"] == "cost"
    figures = report["figures"]
    assert figures["start"]["up_s"]["daemon"]["count"] == figures["start"]["up_s"]["bare"]["count"] == 1
    assert set(figures["idle"]["share_of_a_core"]) == {"daemon", "bare", "zygote"}
    assert set(figures["idle"]["memory_bytes"]["daemon"]) == {"resident", "shared_fairly", "own"}
    for side in ("daemon", "bare"):
        assert set(figures["open_streams"][side]["bytes_per_1000"]) == {"5", "10"}
        assert figures["chunks"]["cpu_ms_per_1000_chunks"][side]["median"] > 0


def _figures(up_s: float = 1.0, share: float = 0.005, resident_mb: float = 120.0) -> dict[str, Any]:
    once = spread([1.0])
    both = {"daemon": once, "bare": once}
    streams = {
        "before_bytes": once,
        "bytes_per_1000": {"200": once, "1000": once},
        "after_bytes": once,
    }
    held = Memory(int(resident_mb * 1e6), 1, 1)
    return {
        # The middle one counts, and not the mean.
        "start": {
            "up_s": {"daemon": spread([0.1, up_s, 9.0]), "bare": once},
            "cpu_s": both,
            "ratio": 2.0,
            "cpu_ratio": 2.0,
        },
        "idle": {
            "seconds": 30,
            "share_of_a_core": {"daemon": spread([0.0, share, 0.5]), "bare": once, "zygote": once},
            "memory_bytes": {"daemon": held, "bare": held},
            "zygote_resident_bytes": None,
        },
        "open_streams": {"daemon": streams, "bare": streams, "ratio": 1.0},
        "chunks": {"streams": 32, "cpu_ms_per_1000_chunks": both, "ratio": 1.0},
    }


@pytest.mark.parametrize("worse", [{"up_s": 1.01}, {"share": 0.0051}, {"resident_mb": 120.1}])
def test_each_part_of_the_goal_counts(worse: dict[str, float]) -> None:
    assert cost.report(machine(), _figures()).met
    assert not cost.report(machine(), _figures(**worse)).met


def test_memory_of_streams_is_for_each_thousand() -> None:
    held: list[dict[int | str, int]] = [{"before": 1000, 200: 1400, 1000: 4000, "after": 2000}]
    figures = figures_of(held, [200, 1000])
    assert figures["bytes_per_1000"]["200"].median == 2000
    assert figures["bytes_per_1000"]["1000"].median == 3000
    assert figures["after_bytes"].median == 2000


def test_the_bare_application_sends_what_the_stand_in_does() -> None:
    steps, end = stand_in.answer(7, False)
    framed = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events_of(7))
    assert framed + b"0\r\n\r\n" == b"".join([*steps, *end])


async def test_all_streams_step_together() -> None:
    beat = Beat(1000)
    step = beat.step()
    assert beat.step() is step
    await step
    assert beat.step() is not step


def test_cpu_of_a_process_is_its_own() -> None:
    before, used = own_cpu_s(os.getpid()), time.process_time()
    while time.process_time() - used < 0.05:
        pass
    assert own_cpu_s(os.getpid()) - before >= 0.05
