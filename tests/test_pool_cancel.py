"""Whoever gives up, at whatever moment, leaves nothing behind in the pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from arena_server.pool.lease import Lease
from arena_server.pool.residency import Residency
from tests.support.daemon_app import Parts, running_pool
from tests.support.gate import LIMIT_S, turns, until
from tests.support.leases import ask, use, waits

Cancel = Callable[[asyncio.Task[Lease]], object]


def now(task: asyncio.Task[Lease]) -> object:
    return task.cancel()


def next_turn(task: asyncio.Task[Lease]) -> object:
    return asyncio.get_running_loop().call_soon(task.cancel)


@pytest.fixture
async def pool() -> AsyncIterator[Parts]:
    async with running_pool() as parts:
        yield parts
        for name in parts.engines:
            assert parts.view(name).running == 0
            assert parts.view(name).waiting == 0
        assert not parts.pool._core.leases
        assert not parts.pool._tickets._waiting


async def given_up(task: asyncio.Task[Lease]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_gives_up_in_the_queue_is_not_loaded_for(pool: Parts) -> None:
    leases = [await pool.pool.acquire([name]) for name in ("alpha", "beta")]
    gamma = ask(pool, "org/gamma")
    await waits(pool, "org/gamma")
    gamma.cancel()
    await given_up(gamma)
    for lease in leases:
        lease.release()
    await turns()
    assert pool.engines["org/gamma"].loads == 0
    assert pool.engines["alpha"].loaded
    assert pool.engines["beta"].loaded


async def test_who_gives_up_in_the_queue_lets_those_behind_move_up(pool: Parts) -> None:
    leases = [await pool.pool.acquire([name]) for name in ("alpha", "beta")]
    first, second = ask(pool, "org/gamma"), ask(pool, "org/gamma")
    await waits(pool, "org/gamma", 2)
    first.cancel()
    await given_up(first)
    for lease in leases:
        lease.release()
    (await second).release()


async def test_who_gives_up_before_asking_has_asked_for_nothing(pool: Parts) -> None:
    task = ask(pool, "alpha")
    task.cancel()
    await given_up(task)
    assert pool.engines["alpha"].loads == 0


async def test_a_load_goes_on_when_the_one_who_caused_it_gives_up(pool: Parts) -> None:
    pool.engines["alpha"].load_gate.hold()
    task = ask(pool, "alpha")
    await until(lambda: pool.engines["alpha"].progress, "the load to begin")
    task.cancel()
    await given_up(task)
    assert pool.view("alpha").waiting == 0
    pool.engines["alpha"].load_gate.release()
    await until(lambda: pool.view("alpha").residency is Residency.AWAKE, "the load to end")
    await use(pool, "alpha")
    assert pool.engines["alpha"].loads == 1


@pytest.mark.parametrize("cancel", [now, next_turn])
async def test_who_gives_up_in_the_same_turn_as_the_grant_keeps_no_lease(pool: Parts, cancel: Cancel) -> None:
    task = ask(pool, "alpha")
    pool.engines["alpha"].after_load = lambda: cancel(task)
    await given_up(task)
    assert pool.view("alpha").residency is Residency.AWAKE
    assert pool.view("alpha").running == 0


@pytest.mark.parametrize("cancel", [now, next_turn])
async def test_who_gives_up_in_the_same_turn_as_the_refusal_is_simply_gone(pool: Parts, cancel: Cancel) -> None:
    task = ask(pool, "alpha")
    pool.engines["alpha"].before_load = lambda: cancel(task)
    pool.engines["alpha"].fail_loads()
    await given_up(task)
    await until(lambda: pool.view("alpha").residency is Residency.COLD, "the remains to be gone")


async def test_a_lease_that_is_granted_at_once_survives_a_later_cancellation_of_its_owner(pool: Parts) -> None:
    await use(pool, "alpha")

    async def owner() -> None:
        async with pool.pool.lease(["alpha"]):
            await asyncio.Event().wait()

    task = asyncio.create_task(owner())
    await until(lambda: pool.view("alpha").running, "the lease")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.view("alpha").running == 0


async def test_giving_a_lease_back_twice_does_no_harm(pool: Parts) -> None:
    first = await pool.pool.acquire(["alpha"])
    second = await pool.pool.acquire(["alpha"])
    first.release()
    first.release()
    assert pool.view("alpha").running == 1
    second.release()


async def test_giving_up_as_the_evictor_spares_what_drained_for_it() -> None:
    async with running_pool(pool={"patience_s": 0}) as pool:
        alpha = await pool.pool.acquire(["alpha"])
        beta = await pool.pool.acquire(["beta"])
        gamma = ask(pool, "org/gamma")
        await waits(pool, "org/gamma")
        again = ask(pool, "alpha")
        await waits(pool, "alpha")
        gamma.cancel()
        await given_up(gamma)
        (await again).release()
        assert pool.engines["alpha"].loads == 1
        for lease in (alpha, beta):
            lease.release()


async def test_many_who_come_and_go_at_random_leave_the_pool_as_it_was(pool: Parts) -> None:
    """Every third gives up, at every distance from its request there is."""
    tasks = []
    for i in range(120):
        name = ("alpha", "beta", "org/gamma")[i % 3]
        tasks.append(asyncio.create_task(use(pool, name)))
        if i % 3 == 0:
            victim = tasks[-1 - i // 3 % len(tasks)]
            victim.cancel()
        if i % 5 == 0:
            await turns(i // 5)
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        assert task.cancelled() or task.exception() is None
    for name in pool.engines:
        await use(pool, name)
