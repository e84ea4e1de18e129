"""The pool's shell over engines that do as they are told: leases, eviction, failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from arena_server.engine.base import LoadProgress
from arena_server.errors import (
    ModelsDoNotFitTogether,
    ModelUnavailable,
    QueueFull,
    WaitLimit,
)
from arena_server.pool.residency import Residency
from tests.support.daemon_app import MODELS, TOTAL_BYTES, Hands, Parts, running_pool
from tests.support.gate import turns, until
from tests.support.leases import ask, use, waits


@pytest.fixture
async def pool() -> AsyncIterator[Parts]:
    async with running_pool() as parts:
        yield parts


async def test_a_lease_is_granted_once_the_model_is_loaded_and_its_engine_answers(pool: Parts) -> None:
    async with pool.pool.lease(["alpha"]) as lease:
        async with lease.engines["alpha"].client.get("/health") as response:
            assert response.status == 200
        assert pool.view("alpha").running == 1
    assert pool.view("alpha").running == 0
    assert pool.view("alpha").residency is Residency.AWAKE


async def test_an_awake_model_is_leased_without_waiting_for_anything(pool: Parts) -> None:
    await use(pool, "alpha")
    task = ask(pool, "alpha")
    await asyncio.sleep(0)
    assert task.done()
    task.result().release()


async def test_two_who_wait_for_one_model_share_its_load(pool: Parts) -> None:
    pool.engines["alpha"].load_gate.hold()
    tasks = [ask(pool, "alpha"), ask(pool, "alpha")]
    await waits(pool, "alpha", 2)
    pool.engines["alpha"].load_gate.release()
    leases = await asyncio.gather(*tasks)
    assert pool.engines["alpha"].loads == 1
    assert pool.view("alpha").running == 2
    for lease in leases:
        lease.release()
    assert pool.view("alpha").running == 0


async def test_one_engine_at_a_time_loads_on_a_device(pool: Parts) -> None:
    pool.engines["alpha"].load_gate.hold()
    tasks = [ask(pool, "alpha"), ask(pool, "beta")]
    await waits(pool, "beta")
    await until(lambda: pool.engines["alpha"].progress, "the first load to begin")
    await turns()
    assert pool.engines["beta"].loads == 0
    pool.engines["alpha"].load_gate.release()
    for lease in await asyncio.gather(*tasks):
        lease.release()


async def test_a_pair_is_granted_in_one_piece(pool: Parts) -> None:
    pool.engines["beta"].load_gate.hold()
    task = ask(pool, "alpha", "beta")
    await until(lambda: pool.view("alpha").residency is Residency.AWAKE, "alpha to be awake")
    await until(lambda: pool.view("beta").residency is Residency.LOADING, "beta to be loading")
    assert not task.done()
    assert pool.view("alpha").running == 0
    pool.engines["beta"].load_gate.release()
    with await task as lease:
        assert lease.engines.keys() == {"alpha", "beta"}
        assert pool.engines["alpha"].loaded
        assert pool.engines["beta"].loaded


async def test_the_least_recently_used_model_is_evicted(pool: Parts) -> None:
    for name in ("alpha", "beta", "alpha", "org/gamma"):
        await use(pool, name)
    assert [v.residency for v in pool.pool.view().models] == [Residency.AWAKE, Residency.COLD, Residency.AWAKE]
    assert not pool.engines["beta"].loaded


async def test_a_leased_model_is_not_evicted(pool: Parts) -> None:
    alpha = await pool.pool.acquire(["alpha"])
    beta = await pool.pool.acquire(["beta"])
    gamma = ask(pool, "org/gamma")
    await waits(pool, "org/gamma")
    await turns()
    assert not gamma.done()
    assert pool.engines["alpha"].loaded
    assert pool.engines["beta"].loaded
    beta.release()
    with await gamma:
        assert pool.engines["alpha"].loaded
        assert pool.engines["beta"].stops == 1
    alpha.release()


async def test_patience_runs_out_by_itself_and_the_oldest_used_model_drains() -> None:
    async with running_pool(pool={"patience_s": 0.02}) as pool:
        alpha = await pool.pool.acquire(["alpha"])
        beta = await pool.pool.acquire(["beta"])
        gamma = ask(pool, "org/gamma")
        await until(lambda: pool.pool._core.models["alpha"].draining, "alpha to drain")
        again = ask(pool, "alpha")
        await waits(pool, "alpha")
        assert not gamma.done(), "running requests finish first"
        alpha.release()
        with await gamma:
            beta.release()
        with await again:
            assert pool.engines["alpha"].loads == 2


async def test_an_idle_model_is_stopped_by_the_clock_alone() -> None:
    models = {"alpha": {**MODELS["alpha"], "idle_ttl_s": 0.02}}
    async with running_pool(models) as pool:
        await use(pool, "alpha")
        await until(lambda: pool.view("alpha").residency is Residency.COLD, "alpha to be stopped")
        assert not pool.engines["alpha"].loaded


async def test_a_load_that_fails_is_told_in_the_engines_words_and_can_be_tried_again(pool: Parts) -> None:
    alpha = pool.engines["alpha"]
    alpha.fail_loads("torch.OutOfMemoryError: 2 GiB lacking")
    with pytest.raises(ModelUnavailable, match="2 GiB lacking"):
        await pool.pool.acquire(["alpha"])
    await use(pool, "beta")
    assert alpha.stops == 1
    alpha.load_error = None
    await use(pool, "alpha")
    assert pool.view("alpha").error is None


async def test_a_model_that_keeps_failing_is_left_alone_until_it_may_be_tried_again() -> None:
    clock = Hands()
    async with running_pool(clock=clock) as pool:
        alpha = pool.engines["alpha"]
        alpha.fail_loads("broken weights")
        for _ in range(2):
            with pytest.raises(ModelUnavailable, match="broken weights"):
                await pool.pool.acquire(["alpha"])
            await until(lambda: not pool.engines["alpha"].remains, "the remains to be gone")
            await turns()
        assert pool.view("alpha").residency is Residency.FAILED
        assert pool.view("alpha").retry_in_s == 1.0
        with pytest.raises(ModelUnavailable, match="broken weights") as refused:
            await pool.pool.acquire(["alpha"])
        assert refused.value.retry_after_s == 1.0
        assert alpha.loads == 2
        clock.time += 1
        alpha.load_error = None
        await use(pool, "alpha")


async def test_a_defect_in_an_engines_load_fails_that_load_alone(pool: Parts) -> None:
    pool.engines["alpha"].load_error = RuntimeError("a defect")
    with pytest.raises(ModelUnavailable, match="RuntimeError: a defect"):
        await pool.pool.acquire(["alpha"])
    pool.engines["alpha"].load_error = None
    await use(pool, "alpha")
    await use(pool, "beta")


async def test_a_defect_in_an_engines_stop_does_not_block_the_device(pool: Parts) -> None:
    pool.engines["alpha"].stop_error = RuntimeError("a defect")
    for name in ("alpha", "beta", "org/gamma"):
        await use(pool, name)
    assert pool.view("alpha").residency is Residency.COLD
    pool.engines["alpha"].stop_error = None


async def test_an_engine_that_dies_while_it_is_leased_is_loaded_again_for_the_next(pool: Parts) -> None:
    lease = await pool.pool.acquire(["alpha"])
    await pool.engines["alpha"].die("CUDA error: an illegal memory access")
    await until(lambda: pool.view("alpha").residency is Residency.COLD, "the crash to be noticed")
    assert pool.view("alpha").running == 0
    assert pool.view("alpha").error == "CUDA error: an illegal memory access"
    with await pool.pool.acquire(["alpha"]):
        lease.release()
        assert pool.view("alpha").running == 1, "the old lease is none on the new engine"
        assert pool.view("alpha").error is None
    assert pool.engines["alpha"].loads == 2
    assert pool.view("alpha").running == 0


async def test_an_engine_that_dies_idle_is_no_ones_trouble(pool: Parts) -> None:
    await use(pool, "alpha")
    await pool.engines["alpha"].die()
    await until(lambda: pool.view("alpha").residency is Residency.COLD, "the crash to be noticed")
    assert not pool.engines["alpha"].remains
    await use(pool, "alpha")


async def test_the_queue_has_a_limit() -> None:
    async with running_pool(pool={"max_queue": 1}) as pool:
        pool.engines["alpha"].load_gate.hold()
        waiting = ask(pool, "alpha")
        await waits(pool, "alpha")
        with pytest.raises(QueueFull) as refused:
            await pool.pool.acquire(["beta"])
        assert refused.value.retry_after_s is not None
        pool.engines["alpha"].load_gate.release()
        (await waiting).release()


async def test_the_wait_has_a_limit_that_needs_no_other_event() -> None:
    async with running_pool(pool={"max_wait_s": 0.02}) as pool:
        pool.engines["alpha"].load_gate.hold()
        with pytest.raises(WaitLimit):
            await pool.pool.acquire(["alpha"])
        pool.engines["alpha"].load_gate.release()
        await until(lambda: pool.view("alpha").residency is Residency.AWAKE, "the load to go on")


async def test_models_that_never_fit_together_are_refused_at_once(pool: Parts) -> None:
    with pytest.raises(ModelsDoNotFitTogether):
        await pool.pool.acquire(["alpha", "beta", "org/gamma"])


async def test_the_view_of_a_model_shows_each_stage_of_its_life() -> None:
    clock = Hands()
    async with running_pool(clock=clock) as pool:
        alpha = pool.engines["alpha"]
        clock.time += 2
        cold = pool.view("alpha")
        assert (cold.residency, cold.since_s, cold.running, cold.waiting) == (Residency.COLD, 2.0, 0, 0)
        assert (cold.idle_s, cold.times.load_s, cold.loading, cold.error, cold.retry_in_s) == (None,) * 5
        alpha.load_gate.hold()
        task = ask(pool, "alpha")
        await until(lambda: pool.view("alpha").loading, "the load to begin")
        alpha.progress = LoadProgress("loading weights", 0.4)
        loading = pool.view("alpha")
        assert (loading.residency, loading.running, loading.waiting) == (Residency.LOADING, 0, 1)
        assert (loading.loading, loading.idle_s) == (LoadProgress("loading weights", 0.4), None)
        clock.time += 7
        alpha.load_gate.release()
        lease = await task
        clock.time += 3
        leased = pool.view("alpha")
        assert (leased.residency, leased.running, leased.waiting) == (Residency.AWAKE, 1, 0)
        assert (leased.idle_s, leased.times.load_s, leased.loading) == (0.0, 7.0, None)
        lease.release()
        clock.time += 5
        assert pool.view("alpha").idle_s == 5.0
        assert [v.name for v in pool.pool.view().models] == list(MODELS)
        assert pool.pool.view().devices[0].reserved_bytes == int(TOTAL_BYTES * 0.4)


async def test_a_lease_gives_its_models_back_one_by_one(pool: Parts) -> None:
    lease = await pool.pool.acquire(["alpha", "beta"])
    lease.release("alpha")
    lease.release("alpha")
    assert (pool.view("alpha").running, pool.view("beta").running) == (0, 1)
    await use(pool, "org/gamma")
    assert pool.view("alpha").residency is Residency.COLD, "beta is in use"
    lease.release()
    lease.release()
    assert pool.view("beta").running == 0
    await use(pool, "alpha", "beta")


async def test_askers_share_the_queue(pool: Parts) -> None:
    async with pool.pool.lease(["alpha", "beta"], asker="many"):
        waiting = [asyncio.ensure_future(pool.pool.acquire(["org/gamma"], asker="many")) for _ in range(2)]
        await asyncio.sleep(0)
        waiting.append(asyncio.ensure_future(pool.pool.acquire(["org/gamma"], asker="one")))
        await asyncio.sleep(0)
        tickets = [outlook.ticket for outlook in pool.pool.view().queue]
        assert len(tickets) == 3
        assert tickets[1] == max(tickets), "the other key's comes right after the head"
    for lease in await asyncio.gather(*waiting):
        lease.release()
