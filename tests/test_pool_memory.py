"""The next load begins when the last engine's memory is back, as the device itself says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from arena_server.errors import ModelUnavailable
from arena_server.gpu import device_memory
from arena_server.gpu.probe import ProbeError
from arena_server.pool import survey
from arena_server.pool.residency import Residency
from tests.support.daemon_app import Parts, running_pool
from tests.support.gate import turns, until
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


async def test_memory_that_is_not_given_back_keeps_others_out_and_is_shown(
    pool: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device_memory, "LIMIT_S", 0.1)
    monkeypatch.setattr(survey, "EVERY_S", 0.01)
    watching = asyncio.create_task(pool.pool.watch_devices())
    for name in ("alpha", "beta"):
        await use(pool, name)
    gamma = ask(pool, "org/gamma")
    await until(lambda: pool.pool.view().devices[0].outside, "the device to be looked at")
    await until(lambda: pool.view("beta").residency is Residency.COLD, "all that could make room to leave")
    device = pool.pool.view().devices[0]
    assert "alpha ended 0.1 s ago and its memory is not back" in caplog.text
    assert device.blocked is not None
    assert "75.0 GiB of the budget are held by others, or were not given back; no room for" in device.blocked
    assert "others than this server hold memory" in pool.pool.view().queue[0].phase
    assert pool.engines["org/gamma"].loads == 0
    pool.probe.used -= 2 * SIZE
    (await gamma).release()
    assert pool.pool.view().devices[0].blocked is None
    watching.cancel()


async def test_memory_of_programs_that_are_not_ours_is_not_given_away(
    pool: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "EVERY_S", 0.01)
    pool.probe.start(4242, 70 << 30)
    watching = asyncio.create_task(pool.pool.watch_devices())
    await until(lambda: pool.pool.view().devices[0].blocked, "the device to be looked at")
    alpha = ask(pool, "alpha")
    await turns()
    assert pool.engines["alpha"].loads == 0
    assert "? (process 4242)" in str(pool.pool.view().devices[0].blocked)
    pool.probe.end(4242)
    (await alpha).release()
    watching.cancel()


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
    async with asyncio.timeout(device_memory.LIMIT_S - 2):
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


async def test_the_load_after_another_sees_what_others_took_meanwhile(pool: Parts) -> None:
    alpha = pool.engines["alpha"]

    def take() -> None:
        for pid in [*alpha.pids, 4242]:
            pool.probe.start(pid, SIZE // len(alpha.pids))

    alpha.before_load, alpha.after_load = lambda: None, take
    alpha.load_gate.hold()
    first, second = ask(pool, "alpha"), ask(pool, "beta")
    await until(lambda: alpha.progress, "the first load to begin")
    alpha.load_gate.release()
    (await first).release()
    await turns()
    assert pool.engines["beta"].loads == 0
    second.cancel()
