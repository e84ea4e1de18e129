"""Tokens over the lives of a model's engines, whose own counters begin at 0 each time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from arena_server.metrics import engines as engines_module
from arena_server.metrics.pool_tally import PoolTally
from arena_server.metrics.tokens import Tokens
from arena_server.pool import transitions
from tests.metrics.pages import answers, token_page
from tests.metrics.scraped import chat, scrape
from tests.support.daemon_app import SLEEP_MEMORY_BYTES, TOTAL_BYTES, FakeDaemon, running_daemon
from tests.support.gate import LIMIT_S, Gate, turns, until
from tests.support.simulated_memory import SimulatedMemory

# Room for one awake; no sleep.
MODELS: Mapping[str, Mapping[str, Any]] = {
    name: {"model": f"org/{name}", "gpu_memory_utilization": 0.6} for name in ("a", "b")
}


class Counters:
    """An engine's own; a page is made of what they are when it is asked for."""

    def __init__(self, daemon: FakeDaemon, model: str) -> None:
        self.prompt = self.completion = 0
        answers(daemon.engines[model], lambda: token_page(self.prompt, self.completion))

    def are(self, prompt: int, completion: int) -> None:
        self.prompt, self.completion = prompt, completion


async def total(daemon: FakeDaemon, model: str) -> tuple[float | None, float | None]:
    page = await scrape(daemon.url)
    prompt = page.value("arena_tokens_total", model=model, type="prompt")
    return prompt, page.value("arena_tokens_total", model=model, type="completion")


async def test_what_was_counted_between_the_last_scrape_and_an_eviction_is_not_lost() -> None:
    async with running_daemon(MODELS) as daemon:
        counters = Counters(daemon, "a")
        await chat(daemon.url, "a")
        counters.are(10, 100)
        assert await total(daemon, "a") == (10, 100)
        counters.are(15, 170)
        await chat(daemon.url, "b")  # evicts a
        counters.are(0, 0)
        assert await total(daemon, "a") == (15, 170)
        await chat(daemon.url, "a")
        counters.are(40, 400)  # beyond what the first engine had come to
        assert await total(daemon, "a") == (55, 570)
        assert await total(daemon, "a") == (55, 570), "a second scrape adds nothing"


async def test_without_any_scrape_in_between_only_the_last_looks_count() -> None:
    async with running_daemon(MODELS) as daemon:
        counters = {name: Counters(daemon, name) for name in MODELS}
        for number in range(1, 4):
            for name in MODELS:
                await chat(daemon.url, name)
                counters[name].are(number, 10 * number)
        await chat(daemon.url, "a")
        counters["a"].are(0, 0)
        assert await total(daemon, "a") == (1 + 2 + 3, 10 + 20 + 30)
        assert await total(daemon, "b") == (1 + 2 + 3, 10 + 20 + 30)


async def test_sleep_keeps_the_engines_counters_and_the_sum() -> None:
    models = {n: {**m, "sleep_level": 1} for n, m in MODELS.items()}
    memory = SimulatedMemory({0: TOTAL_BYTES})
    async with running_daemon(models, memory=memory, pool={"sleep_memory_bytes": SLEEP_MEMORY_BYTES}) as daemon:
        counters = Counters(daemon, "a")
        await chat(daemon.url, "a")
        counters.are(5, 50)
        daemon.pool.sleep("a")
        await until(lambda: daemon.view("a").residency == "asleep", "a to sleep")
        assert await total(daemon, "a") == (5, 50)
        await chat(daemon.url, "a")
        counters.are(6, 60)
        assert await total(daemon, "a") == (6, 60)


async def test_a_crash_loses_what_was_not_read_and_nothing_more() -> None:
    async with running_daemon(MODELS) as daemon:
        counters = Counters(daemon, "a")
        await chat(daemon.url, "a")
        counters.are(10, 100)
        assert await total(daemon, "a") == (10, 100)
        counters.are(12, 120)
        before = len(daemon.engines["a"].requests)
        daemon.engines["a"].tell_death()  # it may answer for another while, or hang
        await until(lambda: daemon.view("a").residency == "cold", "a to be stopped")
        assert len(daemon.engines["a"].requests) == before, "one that crashed is not asked"
        await chat(daemon.url, "a")
        counters.are(3, 30)
        assert await total(daemon, "a") == (13, 130)


@pytest.mark.parametrize("fault", ["hangs", "garbage", "defect"])
async def test_an_engine_that_does_not_answer_is_evicted_all_the_same(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_module, "LAST_LOOK_S", 0.1)
    async with running_daemon(MODELS) as daemon:
        counters = Counters(daemon, "a")
        await chat(daemon.url, "a")
        counters.are(10, 100)
        assert await total(daemon, "a") == (10, 100)
        engine, gate = daemon.engines["a"], Gate()
        if fault == "garbage":
            answers(engine, lambda: b"\xff\xfe")
        elif fault == "defect":

            def defect(*_: Any) -> Any:
                raise KeyError("a defect in reading")

            monkeypatch.setattr(engines_module, "read_page", defect)
        else:
            gate.hold()

            async def hang(*_: Any) -> None:
                await gate.wait()

            engine._answer = hang  # type: ignore[method-assign, assignment]
        assert await chat(daemon.url, "b") == 200
        assert engine.stops == 1
        monkeypatch.undo()
        assert await total(daemon, "a") == (10, 100)


async def test_an_engine_that_crashes_while_it_is_looked_at_for_the_last_time_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transitions, "LAST_WORDS_S", LIMIT_S)
    gate = Gate()
    gate.hold()
    async with running_daemon(MODELS) as daemon:
        await chat(daemon.url, "a")
        engine = daemon.engines["a"]
        before = len(engine.requests)
        answers(engine, lambda: token_page(1, 1))
        whole = engine._answer

        async def later(*of: Any) -> None:
            await gate.wait()
            await whole(*of)

        engine._answer = later  # type: ignore[method-assign, assignment]
        daemon.pool.stop("a")
        await until(lambda: len(engine.requests) > before, "the engine to be asked")
        await engine.vanish()  # its connections end ...
        await turns()
        engine.tell_death()  # ... before its process
        gate.release()
        await until(lambda: daemon.view("a").residency == "cold", "a to be stopped")
        assert (await scrape(daemon.url)).value("arena_engine_crashes_total", model="a") == 1


async def test_a_witness_that_raises_does_not_leave_the_device_in_transition(monkeypatch: pytest.MonkeyPatch) -> None:
    async def defect(*_: Any) -> bool:
        raise KeyError("a defect in counting")

    monkeypatch.setattr(PoolTally, "leaves", defect)
    async with running_daemon(MODELS) as daemon:
        for model in ("a", "b", "a"):
            assert await chat(daemon.url, model) == 200


async def test_the_daemons_end_asks_no_engine() -> None:
    async with running_daemon(MODELS) as daemon:
        await chat(daemon.url, "a")
        engine = daemon.engines["a"]
        requests = len(engine.requests)
    assert engine.stops == 1
    assert len(engine.requests) == requests


def test_a_counter_that_goes_down_is_a_new_engines_whatever_it_looks_like() -> None:
    registry = CollectorRegistry()
    tokens, life = Tokens(registry), object()

    def now() -> float | None:
        return registry.get_sample_value("arena_tokens_total", {"model": "m", "type": "prompt"})

    for count, sum_ in ((5, 5), (7, 7), (2, 9), (2, 9), (4, 11)):
        tokens.read("m", life, {"prompt": count})
        assert now() == sum_
    tokens.read("m", object(), {"prompt": 100})
    assert now() == 111
    for odd in (float("nan"), float("inf"), -1.0):
        tokens.read("m", life, {"prompt": odd})
        assert now() == 111
