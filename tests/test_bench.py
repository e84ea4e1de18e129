"""The benchmarks work and say what they promise. What they measure is no test's business."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import psutil
import pytest

from bench import overhead, stand_in
from bench.client import TOKEN_MARK, Connection, Counter
from bench.report import percentile
from tests.support.processes import lives

ROOT = Path(__file__).parents[1]
OVERHEAD = (sys.executable, "-m", "bench.overhead", "--requests", "5", "--streams", "2", "--tokens", "20", "--json")


async def test_overhead_ends_with_its_figures_as_json() -> None:
    process = await asyncio.create_subprocess_exec(
        *OVERHEAD, "--seconds", "1", cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, progress = await process.communicate()
    assert process.returncode == 0, progress.decode()
    text = output.decode()
    assert "stand-in" in text

    last = json.loads(text.splitlines()[-1])
    assert set(last) == {"bench", "figures", "goal", "met", "machine", "versions", "lines"}
    assert last["bench"] == "overhead"
    assert isinstance(last["goal"], str)
    assert isinstance(last["met"], bool)
    assert set(last["machine"]) == {"cpu", "cores", "memory_gib", "load_average"}
    assert {"arena-server", "python"} <= set(last["versions"])

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
        *OVERHEAD, "--seconds", "60", cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        await process.stderr.readline()  # its processes are up when the first step is announced
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert len(started) == 3
    assert not [p for p in started if lives(p)]


STUBBORN = '''
import asyncio, sys
from bench.processes import run, running

DEAF = r"""
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os.write(2, b"no\\n"))
print("up", flush=True)
while True:
    time.sleep(99)
"""

async def measure():
    async with running("-c", DEAF, stdout=asyncio.subprocess.PIPE) as process:
        await process.stdout.readline()
        print(process.pid, flush=True)
        await asyncio.sleep(99)

sys.exit(run(measure))
'''


async def test_a_second_ctrl_c_leaves_no_process_that_does_not_end_by_itself() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STUBBORN), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(60):
        child = psutil.Process(int(await process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        assert await process.stderr.readline() == b"no\n", "it has been asked to end"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert not lives(child)


@pytest.mark.parametrize("counted", [False, True])
def test_tokens_are_counted_wherever_the_chunks_are_cut(counted: bool) -> None:
    counter = Counter()
    connection = Connection(counter)
    steps, (last, *end) = stand_in.answer(11, counted)
    for chunk in (*steps, last):
        half = chunk.find(TOKEN_MARK) + 4  # cut within the mark, if it is there
        connection.on_body(chunk[:half])
        connection.on_body(chunk[half:])
    for chunk in end:
        connection.on_body(chunk)
    assert counter.tokens == 11


def test_percentile() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 99) == 99
    assert percentile(values, 50) == 50
    assert percentile([7.0], 95) == 7
