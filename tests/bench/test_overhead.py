"""The relay's benchmark works and says what it promises. What it measures is no test's business."""

from __future__ import annotations

import asyncio
import signal
import sys

import psutil
import pytest

from bench import overhead
from tests.bench.program import MACHINE_KEYS, ROOT, report_of
from tests.support.processes import lives

QUICK = ("--requests", "5", "--streams", "2", "--tokens", "20")


async def test_overhead_ends_with_its_figures_as_json() -> None:
    last = await report_of("overhead", *QUICK, "--seconds", "1", limit_s=60)
    assert last["bench"] == "overhead"
    assert any("stand-in" in line for line in last["lines"])
    assert set(last["machine"]) == MACHINE_KEYS
    figures = last["figures"]
    assert figures["one_client"]["requests"] == figures["back_to_back"]["requests"] == 5
    assert {"first_token_ms", "added_ms", "added_ms_by_block", "daemon_cpu_ms_per_request"} <= set(
        figures["one_client"]
    )
    (streams,) = figures["streams"]
    assert streams["streams"] == 2
    assert set(streams["tokens_per_s"]) == {"direct", "relay", "bare"}
    assert {"ratio", "added_ms", "per_token_ms", "daemon_cpu_ms_per_1000_chunks"} <= set(streams)


@pytest.mark.parametrize(
    ("added", "p99", "ratio", "met"),
    [(1.0, 5.0, 0.98, True), (1.01, 0, 1, False), (0, 5.01, 1, False), (0, 0, 0.979, False)],
)
def test_overhead_is_judged_by_each_of_its_goals(added: float, p99: float, ratio: float, met: bool) -> None:
    streams = [{"streams": n, "ratio": ratio, "added_ms": {"p99": p99 if n == 64 else 99.0}} for n in (16, 64)]
    assert overhead.judge({"one_client": {"added_ms": {"median": added}}, "streams": streams})[1] is met


async def test_an_interrupted_benchmark_leaves_no_process() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.overhead", *QUICK, "--seconds", "60"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        await process.stderr.readline()  # its processes are up when the first step is announced
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert len(started) == 3
    assert not [p for p in started if lives(p)]
