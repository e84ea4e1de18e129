"""The pool's end: nobody waits for ever, and nothing is left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from arena_server.errors import ShuttingDown
from arena_server.pool.residency import Residency
from tests.support.daemon_app import Parts, running_pool
from tests.support.gate import LIMIT_S, turns, until
from tests.support.leases import ask, use, waits


@pytest.fixture
async def pool() -> AsyncIterator[Parts]:
    async with running_pool() as parts:
        yield parts


async def test_nobody_new_is_let_in_once_the_daemon_shuts_down_and_leases_go_on(pool: Parts) -> None:
    lease = await pool.pool.acquire(["alpha"])
    pool.engines["beta"].load_gate.hold()
    waiting = ask(pool, "beta")
    await waits(pool, "beta")
    pool.pool.refuse_new()
    with pytest.raises(ShuttingDown):
        await waiting
    with pytest.raises(ShuttingDown):
        await pool.pool.acquire(["alpha"])
    async with lease.engines["alpha"].client.get("/health") as response:
        assert response.status == 200
    lease.release()


async def test_closing_ends_waits_loads_stops_and_leased_engines(pool: Parts) -> None:
    lease = await pool.pool.acquire(["alpha"])
    await use(pool, "beta")
    pool.engines["beta"].stop_gate.hold()
    pool.engines["org/gamma"].load_gate.hold()
    waiting = ask(pool, "org/gamma")
    await until(lambda: pool.view("beta").residency is Residency.STOPPING, "beta to be stopping")
    pool.engines["beta"].stop_gate.release()
    await until(lambda: pool.engines["org/gamma"].progress, "gamma to be loading")
    await pool.pool.close()
    with pytest.raises(ShuttingDown):
        await waiting
    for engine in pool.engines.values():
        assert not engine.loaded
        assert not engine.remains
    lease.release()
    await pool.pool.close()


async def test_closing_in_the_middle_of_a_stop_completes_it(pool: Parts) -> None:
    await use(pool, "alpha")
    await use(pool, "beta")
    pool.engines["alpha"].stop_gate.hold()
    waiting = ask(pool, "org/gamma")
    await until(lambda: pool.view("alpha").residency is Residency.STOPPING, "alpha to be stopping")
    closing = asyncio.create_task(pool.pool.close())
    await turns()
    pool.engines["alpha"].stop_gate.release()
    await closing
    with pytest.raises(ShuttingDown):
        await waiting
    assert not pool.engines["alpha"].remains


async def test_a_defect_in_one_engines_stop_leaves_no_other_engine_running(pool: Parts) -> None:
    await use(pool, "alpha")
    await use(pool, "beta")
    pool.engines["alpha"].stop_error = RuntimeError("a defect")
    pool.engines["beta"].stop_gate.hold()
    closing = asyncio.create_task(pool.pool.close())
    await turns()
    pool.engines["beta"].stop_gate.release()
    await closing
    assert not pool.engines["beta"].loaded
    assert not pool.engines["beta"].remains
    pool.engines["alpha"].stop_error = None


async def test_whoever_comes_after_the_end_is_refused(pool: Parts) -> None:
    await pool.pool.close()
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ShuttingDown):
            await pool.pool.acquire(["alpha"])
