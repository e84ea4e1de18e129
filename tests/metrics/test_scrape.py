"""`GET /metrics` of a running daemon over stand-in engines: who is asked, who is left out, and what stays behind."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest

from arena_server.metrics import engines as engines_module
from arena_server.metrics.engine_page import read_page
from arena_server.pool import pool as pool_module
from tests.metrics.pages import VLLM_COMPLETION_TOKENS, answers, real_page, token_page
from tests.metrics.scraped import OPENMETRICS, chat, read, scrape
from tests.support.daemon_app import SLEEP_MEMORY_BYTES, TOTAL_BYTES, FakeDaemon, running_daemon
from tests.support.fake_engine import FakeEngine
from tests.support.gate import Gate, turns, until
from tests.support.replies import Received, Reply
from tests.support.simulated_memory import SimulatedMemory

MODELS = {n: {"model": f"org/{n}", "gpu_memory_utilization": 0.3} for n in ("a", "b", "c")}
SLEEPERS = {n: {**MODELS[n], "gpu_memory_utilization": 0.6, "sleep_level": 1} for n in ("a", "b")}


def sleeping() -> AbstractAsyncContextManager[FakeDaemon]:
    """Two models with room for one, and for the other's sleep."""
    memory = SimulatedMemory({0: TOTAL_BYTES})
    return running_daemon(SLEEPERS, memory=memory, pool={"sleep_memory_bytes": SLEEP_MEMORY_BYTES})


async def all_awake(daemon: FakeDaemon) -> None:
    for name, engine in daemon.engines.items():
        answers(engine, lambda name=name: real_page(name))  # type: ignore[misc]
        assert await chat(daemon.url, name) == 200


def asked(daemon: FakeDaemon, name: str) -> int:
    return sum(r.path == "/metrics" for r in daemon.engines[name].requests)


def answers_at_once(engine: FakeEngine) -> None:
    """From the next time on that it is asked."""
    del engine.__dict__["_answer"]


def dies_midway(engine: Any, page: str) -> None:
    """The connection ends when half of the page has come."""

    async def half(_: Received, writer: Any) -> None:
        body = page.encode()
        writer.write(Reply([], length=len(body)).head() + body[: len(body) // 2])
        await writer.drain()
        writer.transport.close()

    engine._answer = half


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_every_awake_engine_is_on_the_page_in_both_formats(accept: str) -> None:
    async with running_daemon(MODELS) as daemon:
        await all_awake(daemon)
        page = await scrape(daemon.url, accept)
        assert page.content_type.startswith("application/openmetrics-text" if accept else "text/plain; version=0.0.4")
        assert page.text.endswith("# EOF\n") is bool(accept)
        assert page.text.count("# EOF") == bool(accept)
        assert page.values("vllm:generation_tokens_total", "model") == dict.fromkeys("abc", VLLM_COMPLETION_TOKENS)
        assert page.values("arena_engine_scrape_failures_total", "model") == dict.fromkeys("abc", 0)
        assert page.value("process_resident_memory_bytes")
        assert not [n for n in page.labels() if n.startswith("arena_") and n.endswith("_created")]


async def test_the_engines_are_asked_at_the_same_time() -> None:
    async with running_daemon(MODELS) as daemon:
        await all_awake(daemon)
        together = asyncio.Barrier(3)
        for name, engine in daemon.engines.items():
            hold_back(engine, together.wait, real_page(name))
        page = await scrape(daemon.url)  # one after the other would wait for the rest until all had failed
        assert len(page.values("vllm:generation_tokens_total", "model")) == 3


async def test_scrapes_at_the_same_time_share_an_engines_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, the last would have waited for too long, and the engine would be blamed."""
    monkeypatch.setattr(engines_module, "SCRAPE_S", 30.0)
    gate = Gate()
    async with running_daemon(MODELS) as daemon:
        await all_awake(daemon)
        metrics = _metrics(daemon)
        before = asked(daemon, "a")
        gate.hold()
        hold_back(daemon.engines["a"], gate.wait, real_page("a"))
        first, second, third = (asyncio.create_task(metrics.page()) for _ in range(3))
        await until(lambda: asked(daemon, "a") == before + 1, "the engine to be asked")
        first.cancel()  # the others still wait for the answer that this one has asked for
        with pytest.raises(asyncio.CancelledError):
            await first
        await turns()
        gate.release()
        for scraping in (second, third):
            page, _ = await scraping
            assert read(page.decode()).value("arena_engine_scrape_failures_total", model="a") == 0
            assert b'vllm:generation_tokens_total{model="a",' in page
        assert asked(daemon, "a") == before + 1
        assert (await scrape(daemon.url)).value("arena_engine_scrape_failures_total", model="a") == 0
        assert asked(daemon, "a") == before + 2, "the next one asks anew"


async def test_a_defect_in_reading_an_engines_page_costs_that_page_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_daemon(MODELS) as daemon:
        await all_awake(daemon)

        def defect(page: bytes, model: str) -> Any:
            if model == "b":
                raise KeyError("a defect")
            return read_page(page, model)

        monkeypatch.setattr(engines_module, "read_page", defect)
        for number in (1, 2):
            page = await scrape(daemon.url)
            assert page.values("vllm:generation_tokens_total", "model") == dict.fromkeys("ac", VLLM_COMPLETION_TOKENS)
            assert page.values("arena_engine_scrape_failures_total", "model") == {"a": 0, "b": number, "c": 0}
        said = [r for r in caplog.records if "its own metrics are left out" in r.getMessage()]
        assert [r.exc_info is not None for r in said] == [True], "where it is, once"


async def test_a_full_queue_does_not_make_a_scrape_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each who waits can expect takes 25 ms for 1,000 of them, with which a stream would stand still."""
    async with running_daemon(MODELS) as daemon:
        daemon.engines["a"].load_gate.hold()
        waiting = [asyncio.create_task(chat(daemon.url, "a")) for _ in range(5)]
        await until(lambda: daemon.view("a").waiting == 5, "all to wait")
        monkeypatch.setattr(pool_module, "outlooks", None)  # whoever asks for it fails
        page = await scrape(daemon.url)
        assert page.value("arena_queue_length") == page.value("arena_requests_waiting", model="a") == 5
        assert (page.value("arena_queue_oldest_wait_seconds") or 0) > 0
        assert (await _stats(daemon.url))["queue_length"] == 5
        monkeypatch.undo()
        daemon.open_gates()
        assert await asyncio.gather(*waiting) == [200] * 5


def hold_back(engine: Any, until_then: Any, page: str) -> None:
    """The page comes once the awaitable has returned."""
    answer = engine._answer

    async def later(request: Received, writer: Any) -> None:
        if request.path == "/metrics":
            await until_then()
        await answer(request, writer)

    answers(engine, lambda: page)
    engine._answer = later


@pytest.mark.parametrize("fault", ["hangs", "garbage", "midway", "refuses", "endless", "gone"])
async def test_an_engine_that_does_not_answer_well_is_left_out_and_counted(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Long enough for the others on a machine that is busy.
    monkeypatch.setattr(engines_module, "SCRAPE_S", 2.0 if fault == "hangs" else 30.0)
    monkeypatch.setattr(engines_module, "MOST_BYTES", 200_000)
    gate = Gate()
    async with running_daemon(MODELS) as daemon:
        await all_awake(daemon)
        bad = daemon.engines["b"]
        if fault == "hangs":
            gate.hold()
            hold_back(bad, gate.wait, real_page("b"))
        elif fault == "midway":
            dies_midway(bad, real_page("b"))
        elif fault == "gone":
            await bad.vanish()
        else:
            pages: dict[str, str | bytes | Reply] = {
                "garbage": b"\x00\x01<html>",
                "refuses": Reply([], "500 Internal Server Error", length=0),
                "endless": "vllm:x 1\n" * 30_000,
            }
            answers(bad, lambda: pages[fault])
        page = await scrape(daemon.url)
        assert page.values("vllm:generation_tokens_total", "model") == dict.fromkeys("ac", VLLM_COMPLETION_TOKENS)
        assert page.values("arena_engine_scrape_failures_total", "model") == {"a": 0, "b": 1, "c": 0}
        if fault == "garbage":
            assert (await scrape(daemon.url)).values("arena_engine_scrape_failures_total", "model")["b"] == 2
            said = [r.getMessage() for r in caplog.records if "its own metrics are left out" in r.getMessage()]
            assert len(said) == 1, "the first of a series alone is logged"
        gate.release()


async def test_an_engine_that_sleeps_loads_or_is_cold_is_not_asked() -> None:
    async with sleeping() as daemon:
        for name, engine in daemon.engines.items():
            answers(engine, lambda name=name: real_page(name))  # type: ignore[misc]
        await chat(daemon.url, "a")
        await chat(daemon.url, "b")
        assert daemon.view("a").residency == "asleep"
        before = asked(daemon, "a")
        assert list((await scrape(daemon.url)).values("vllm:generation_tokens_total", "model")) == ["b"]
        daemon.engines["a"].wake_gate.hold()
        waiting = asyncio.create_task(chat(daemon.url, "a"))
        await until(lambda: daemon.view("a").residency == "waking", "a to be woken")
        page = await scrape(daemon.url)
        assert not page.values("vllm:generation_tokens_total", "model")
        assert asked(daemon, "a") == before
        assert page.values("arena_engine_scrape_failures_total", "model") == {"a": 0, "b": 0}
        daemon.engines["a"].wake_gate.release()
        assert await waiting == 200


async def test_an_engine_falls_asleep_only_when_nobody_asks_it_any_more() -> None:
    gate = Gate()
    async with sleeping() as daemon:
        await chat(daemon.url, "a")
        gate.hold()
        hold_back(daemon.engines["a"], gate.wait, token_page(1, 1))
        scraping = asyncio.create_task(scrape(daemon.url))
        await until(lambda: asked(daemon, "a") == 1, "the engine to be asked")
        answers_at_once(daemon.engines["a"])  # but for that one
        daemon.pool.sleep("a")
        await turns()
        assert not daemon.engines["a"].sleeps
        gate.release()
        assert (await scraping).value("vllm:prompt_tokens_total", model="a", engine="0") == 1
        await until(lambda: daemon.view("a").residency == "asleep", "a to sleep")
        # FakeEngine's own check that nothing is asked of one that sleeps is made at the daemon's end.


async def test_an_engine_that_is_stopped_while_it_is_asked_is_not_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "SCRAPE_S", 30.0)
    monkeypatch.setattr(engines_module, "LAST_LOOK_S", 0.01)
    gate = Gate()
    async with running_daemon(MODELS) as daemon:
        await all_awake(daemon)
        gate.hold()
        hold_back(daemon.engines["b"], gate.wait, real_page("b"))
        before = asked(daemon, "b")
        scraping = asyncio.create_task(scrape(daemon.url))
        await until(lambda: asked(daemon, "b") > before, "the engine to be asked")
        daemon.pool.stop("b")
        page = await scraping
        assert page.values("vllm:generation_tokens_total", "model") == dict.fromkeys("ac", VLLM_COMPLETION_TOKENS)
        assert page.values("arena_engine_scrape_failures_total", "model") == dict.fromkeys("abc", 0)
        gate.release()


async def test_a_scrape_that_is_given_up_leaves_nothing_behind() -> None:
    gate = Gate()
    async with running_daemon(MODELS) as daemon:
        await all_awake(daemon)
        tasks = asyncio.all_tasks()
        gate.hold()
        for name, engine in daemon.engines.items():
            hold_back(engine, gate.wait, real_page(name))
        counts = {name: asked(daemon, name) for name in MODELS}
        metrics = asyncio.create_task(_metrics(daemon).page())
        await until(lambda: all(asked(daemon, n) == counts[n] + 1 for n in MODELS), "the engines to be asked")
        metrics.cancel()
        with pytest.raises(asyncio.CancelledError):
            await metrics
        gate.release()
        await until(lambda: not [t for t in asyncio.all_tasks() - tasks if not _of_an_engine(t)], "all tasks to end")
        last = [e.requests[-1] for e in daemon.engines.values()]
        await until(lambda: all(request.aborted for request in last), "the engines to be told")
        page = await scrape(daemon.url)
        assert page.values("arena_engine_scrape_failures_total", "model") == dict.fromkeys("abc", 0)
        assert len(page.values("vllm:generation_tokens_total", "model")) == 3


def _of_an_engine(task: asyncio.Task[Any]) -> bool:
    """Whether it is the fake engine's end of a connection: the client keeps one made ahead."""
    return getattr(task.get_coro(), "__qualname__", "") == "FakeEngine._connected"


def _metrics(daemon: FakeDaemon) -> Any:
    """The daemon's own `Metrics`, out of its route."""
    for route in daemon.daemon.app.routes:
        if getattr(route, "path", "") == "/metrics":
            cells = route.endpoint.__closure__  # type: ignore[attr-defined]
            return next(c.cell_contents for c in cells if type(c.cell_contents).__name__ == "Metrics")
    raise AssertionError("no route")


async def test_scrapes_are_not_taken_for_an_engines_work() -> None:
    """Or one that stands still would seem to move at every scrape (`engine/stall.py`)."""
    async with running_daemon(MODELS) as daemon:
        await all_awake(daemon)
        client = daemon.engines["a"].client
        pieces = client.pieces
        assert (await scrape(daemon.url)).values("vllm:generation_tokens_total", "model")["a"]
        assert client.pieces == pieces


async def test_stats_tell_how_much_goes_on() -> None:
    async with sleeping() as daemon:
        daemon.engines["a"].chunks.hold()
        running = asyncio.create_task(chat(daemon.url, "a"))
        await daemon.engines["a"].request()
        waiting = asyncio.create_task(chat(daemon.url, "b"))
        await until(lambda: daemon.view("b").waiting, "b to be waited for")
        assert await _stats(daemon.url) == {
            "models": {
                "a": {"residency": "awake", "running": 1, "waiting": 0},
                "b": {"residency": "cold", "running": 0, "waiting": 1},
            },
            "running": 1,
            "queue_length": 1,
        }
        daemon.open_gates()
        assert [await running, await waiting] == [200, 200]


async def _stats(url: str) -> Any:
    async with aiohttp.ClientSession(url) as client, client.get("/stats") as response:
        return await response.json()
