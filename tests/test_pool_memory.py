"""The next load begins when the last engine's memory is back, as the device itself says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from arena_server.errors import ModelUnavailable
from arena_server.gpu import memory_return
from arena_server.gpu.probe import ProbeError
from arena_server.pool.residency import Residency
from tests.support.daemon_app import Parts, running_pool
from tests.support.gate import until
from tests.support.leases import ask, use

SIZE = 40 << 30


@pytest.fixture
async def pool() -> AsyncIterator[Parts]:
    """Loads take memory; it comes back when the test gives it back."""
    async with running_pool() as parts:

        def take() -> None:
            parts.probe.used += SIZE

        for engine in parts.engines.values():
            engine.before_load = take
        yield parts
        parts.probe.error = None
        parts.probe.used = -1 << 50


async def looked_again(pool: Parts) -> None:
    """Wait until the device was asked twice more, and did not have the memory back."""
    reads = pool.probe.reads
    await until(lambda: pool.probe.reads >= reads + 2, "the device to be looked at again")


async def test_a_load_waits_until_the_victims_memory_is_back(pool: Parts) -> None:
    await use(pool, "alpha")
    await use(pool, "beta")
    gamma = ask(pool, "org/gamma")
    await until(lambda: pool.engines["alpha"].stops and not pool.engines["alpha"].remains, "alpha's end")
    await looked_again(pool)
    pool.probe.used -= SIZE // 2
    await looked_again(pool)
    assert pool.view("alpha").residency is Residency.STOPPING
    assert pool.engines["org/gamma"].loads == 0
    pool.probe.used -= SIZE // 2
    (await gamma).release()


async def test_a_little_that_others_took_meanwhile_does_not_matter(pool: Parts) -> None:
    await use(pool, "alpha")
    await use(pool, "beta")
    gamma = ask(pool, "org/gamma")
    await until(lambda: pool.view("alpha").residency is Residency.STOPPING, "alpha to be stopping")
    pool.probe.used -= int(SIZE * 0.95)
    (await gamma).release()


async def test_memory_that_never_comes_back_blocks_the_device_for_a_while_only(
    pool: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory_return, "LIMIT_S", 0.1)
    for name in ("alpha", "beta", "org/gamma"):
        await use(pool, name)
    assert "alpha ended 0.1 s ago and its memory is not back" in caplog.text


async def test_the_memory_of_a_load_that_failed_is_waited_for_too(pool: Parts) -> None:
    pool.engines["alpha"].fail_loads()
    with pytest.raises(ModelUnavailable):
        await pool.pool.acquire(["alpha"])
    beta = ask(pool, "beta")
    await until(lambda: pool.engines["alpha"].stops and not pool.engines["alpha"].remains, "alpha's end")
    await looked_again(pool)
    assert pool.engines["beta"].loads == 0
    pool.probe.used -= SIZE
    (await beta).release()


async def test_the_memory_of_an_engine_that_died_may_be_back_before_anybody_looks(
    pool: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    await use(pool, "alpha")
    pool.probe.used -= SIZE
    await pool.engines["alpha"].die()
    async with asyncio.timeout(memory_return.LIMIT_S - 2):
        await until(lambda: pool.view("alpha").residency is Residency.COLD, "the crash to be over")
    assert "its memory is not back" not in caplog.text


async def test_the_memory_of_an_engine_that_died_may_come_back_late(pool: Parts) -> None:
    await use(pool, "alpha")
    await use(pool, "beta")
    await pool.engines["alpha"].die()
    again = ask(pool, "alpha")
    await until(lambda: pool.engines["alpha"].stops and not pool.engines["alpha"].remains, "alpha's end")
    await looked_again(pool)
    assert pool.engines["alpha"].loads == 1
    pool.probe.used -= SIZE
    (await again).release()


@pytest.mark.parametrize("moment", ["before the load", "during the load", "before the stop", "during the stop"])
async def test_a_device_that_cannot_be_asked_does_not_block_its_models_for_ever(pool: Parts, moment: str) -> None:
    alpha = pool.engines["alpha"]
    lost = ProbeError("GPU is lost")

    def lose() -> None:
        pool.probe.error = lost

    if moment == "before the load":
        lose()
    elif moment == "during the load":
        alpha.before_load = lose
    first = ask(pool, "alpha")
    await until(first.done, "the load to end, whichever way")
    if first.exception() is None:
        first.result().release()
    if moment == "during the stop":
        alpha.stop_gate.hold()
    if moment == "before the stop":
        lose()
    await alpha.die()
    if moment == "during the stop":
        lose()
        alpha.stop_gate.release()
    await until(lambda: pool.view("alpha").residency in (Residency.COLD, Residency.FAILED), "the stop to end")
    pool.probe.error = None
    alpha.before_load = lambda: None
    pool.probe.used = 0
    await use(pool, "beta")
