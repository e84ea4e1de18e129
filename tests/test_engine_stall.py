"""An engine whose requests get nothing is dead; one whose clients are slow, or that works unseen, is not."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from arena_server.clock import SystemClock
from arena_server.engine.client import EngineAnswer, EngineClient
from arena_server.engine.stall import ProgressStall, signature
from arena_server.engine.stillness import Stillness
from tests.support.fake_engine import FakeEngine
from tests.support.gate import LIMIT_S as WAIT_S
from tests.support.gate import turns, until
from tests.support.replies import Received, Reply, reply_to, stream

LIMIT_S = 100.0
STEP_S = 5.0  # from look to look, as the fastest that is allowed for this limit
REASON = "no token for 100 s while 1 request ran (pool.progress_stall_s)"


class Hands:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time


METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b"} 2.0
vllm:num_requests_running{engine="1",model_name="a b"} 1.0
vllm:num_requests_waiting{engine="0",model_name="a b"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="a b"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="a b"} 70.0
vllm:generation_tokens_total{engine="0",model_name="a b"} 40.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="a b"} 3.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="a b"} 5.0
vllm:request_success_created{engine="0",finished_reason="stop",model_name="a b"} 1.7952649716772962e+09
process_cpu_seconds_total 12.5
"""


def test_the_signature_is_of_what_changes_while_vllm_works() -> None:
    assert signature(METRICS) == {
        ("vllm:num_requests_running", 3.0),
        ("vllm:kv_cache_usage_perc", 0.25),
        ("vllm:prompt_tokens_total", 70.0),
        ("vllm:generation_tokens_total", 40.0),
        ("vllm:request_success_total", 8.0),
    }


def test_the_older_name_of_the_cache_counts() -> None:
    assert signature('vllm:gpu_cache_usage_perc{engine="0"} 0.5') != signature('vllm:gpu_cache_usage_perc{a="0"} 0.6')


def test_without_statistics_there_is_no_signature() -> None:
    assert not signature("process_cpu_seconds_total 12.5\nvllm:broken\n")


def test_a_pause_of_the_daemon_itself_is_hardly_counted() -> None:
    clock = Hands()
    stillness = Stillness(clock, longest_step_s=2)
    clock.time += 1
    assert stillness.look() == 1
    clock.time += 1000
    assert stillness.look() == 3
    stillness.moved()
    assert stillness.look() == 0


class Watched:
    """A fake engine with a watch, which the test lets look."""

    def __init__(self, engine: FakeEngine, directory: Path) -> None:
        self.engine = engine
        self.clock = Hands()
        self.metrics: bytes | None = METRICS.encode()  # None: it does not answer
        self.asked = 0  # for metrics
        self.own = EngineClient(directory / "1" / "http.sock")
        self.stall = ProgressStall(engine.client, self.own, LIMIT_S, self.clock)
        engine.reply = self.reply
        self.answer = Reply([b"a", b"b", b"c"])

    def reply(self, request: Received) -> Reply:
        if request.path != "/metrics":
            return reply_to(request) if request.path == "/health" else self.answer
        self.asked += 1
        return Reply([] if self.metrics is None else [self.metrics], status="200 OK" if self.metrics else "503 No")

    async def look(self, seconds: float) -> str | None:
        """Let it look as often as it would in that time; the reason it gives first."""
        for _ in range(int(seconds / STEP_S)):
            self.clock.time += STEP_S
            if reason := await self.stall.look():
                return reason
        return None

    @contextlib.asynccontextmanager
    async def waiting(self) -> AsyncIterator[EngineAnswer]:
        """A request whose answer has begun, and whose rest is waited for; it is cut off at the end."""
        self.engine.chunks.hold()
        self.engine.chunks.release(1)
        async with self.engine.client.post("/v1/completions", [], b"{}") as answer:
            chunks = answer.chunks()
            assert await anext(chunks) == b"a"
            reading = asyncio.ensure_future(anext(chunks))
            await until(lambda: answer.awaited, "it to be waited for")
            yield answer
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def looked(self, happened: asyncio.Task[str]) -> None:
        """Return when the running watch has looked at what is now, or has told of a stall."""
        looks = self.asked + 2  # the first may have begun before
        await until(lambda: self.asked >= looks or happened.done(), "the watch to look")

    @contextlib.asynccontextmanager
    async def unanswered(self) -> AsyncIterator[None]:
        """A request of which not a byte comes back."""
        self.engine.chunks.hold()
        asking = asyncio.ensure_future(self.engine.client.post("/v1/completions", [], b"{}").__aenter__())
        await until(lambda: self.engine.client.awaited, "it to be waited for")
        yield
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: all(r.finished or r.aborted for r in self.engine.requests), "the exchange to end")


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        engine = FakeEngine("fake", Path(directory) / "1")
        await engine.load()
        yield Watched(engine, Path(directory))
        await engine.stop()
        assert engine.faults == []


async def test_an_engine_that_lets_a_request_wait_and_does_nothing_is_dead(watched: Watched) -> None:
    async with watched.waiting():
        assert await watched.look(LIMIT_S - STEP_S) is None
        assert await watched.look(3 * STEP_S) == REASON


async def test_one_that_does_not_even_answer_for_its_metrics_is_dead(watched: Watched) -> None:
    async with watched.waiting():
        assert await watched.look(2 * STEP_S) is None
        watched.metrics = None
        assert await watched.look(LIMIT_S + 2 * STEP_S) == REASON


async def test_one_that_works_unseen_is_not_dead(watched: Watched) -> None:
    async with watched.waiting():
        for tokens in range(41, 45):
            watched.metrics = METRICS.replace("} 40.0", f"}} {tokens}.0").encode()
            assert await watched.look(LIMIT_S - STEP_S) is None


async def test_one_whose_statistics_are_off_is_never_taken_for_dead(watched: Watched) -> None:
    watched.metrics = b"process_cpu_seconds_total 12.5\n"
    async with watched.waiting():
        assert await watched.look(5 * LIMIT_S) is None


async def test_bytes_for_any_request_are_progress(watched: Watched) -> None:
    async with watched.waiting():
        assert await watched.look(LIMIT_S - STEP_S) is None
        async with watched.engine.client.get("/health") as other:
            await other.read()
        assert await watched.look(LIMIT_S - STEP_S) is None
        assert await watched.look(3 * STEP_S) == REASON


async def test_a_time_without_requests_is_not_counted(watched: Watched) -> None:
    for _ in range(3):
        async with watched.waiting():
            assert await watched.look(LIMIT_S - 2 * STEP_S) is None
        await until(lambda: all(r.finished or r.aborted for r in watched.engine.requests), "the exchange to end")
        assert await watched.look(STEP_S) is None


async def test_an_engine_that_nobody_waits_for_is_asked_nothing(watched: Watched) -> None:
    assert await watched.look(5 * LIMIT_S) is None
    assert watched.asked == 0


async def test_an_engine_whose_client_reads_slowly_is_not_dead(watched: Watched) -> None:
    watched.answer = stream([b"data: x\n\n" * 1000] * 100_000)
    async with watched.engine.client.post("/v1/completions", [], b"{}") as answer:
        await until(lambda: answer._paused, "its buffers to be full")
        assert await watched.look(5 * LIMIT_S) is None
        assert watched.asked == 0
        # Nor while it reads, bit by bit.
        chunks = answer.chunks()
        for _ in range(5):
            await anext(chunks)
            assert await watched.look(LIMIT_S) is None


async def test_the_watch_waits_for_a_request_and_then_finds_the_stall(watched: Watched) -> None:
    stall = ProgressStall(watched.engine.client, watched.own, 0.05, SystemClock())
    happened = asyncio.create_task(stall.happened())
    await turns()
    assert watched.asked == 0
    async with watched.waiting():
        reason = await asyncio.wait_for(happened, WAIT_S)
    assert reason == "no token for 0.05 s while 1 request ran (pool.progress_stall_s)"


async def test_the_watch_begins_anew_with_the_first_request_after_none(watched: Watched) -> None:
    stall = ProgressStall(watched.engine.client, watched.own, 0.1, watched.clock)
    happened = asyncio.create_task(stall.happened())
    for _ in range(3):
        async with watched.unanswered():
            for _ in range(4):
                watched.clock.time += 0.02
                await watched.looked(happened)
        await until(lambda: watched.engine.client._in_use._waiters or happened.done(), "the watch to rest")
    assert not happened.done()
    happened.cancel()
    await asyncio.gather(happened, return_exceptions=True)
