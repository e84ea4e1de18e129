"""Sleep through the pool: engines share a memory that notes every over-commit, and themselves what is asked wrongly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from arena_server.engine.base import EngineError
from arena_server.errors import ModelUnavailable, ShuttingDown
from arena_server.measurements import MeasurementStore
from arena_server.pool.events import Times
from arena_server.pool.residency import Residency
from tests.support.daemon_app import (
    ASLEEP_BYTES,
    KV_CACHE_BYTES,
    SLEEP_MEMORY_BYTES,
    TOTAL_BYTES,
    WEIGHTS_BYTES,
    Hands,
    Parts,
    running_pool,
)
from tests.support.gate import turns, until
from tests.support.leases import ask, use, waits
from tests.support.simulated_memory import SimulatedMemory

# Two of them fit at a time, and what all of them keep asleep.
SLEEPERS: Mapping[str, Mapping[str, Any]] = {
    name: {"model": f"org/{name}", "gpu_memory_utilization": 0.4, "sleep_level": 1} for name in ("a", "b", "c", "d")
}
HOST_BYTES = 2 * WEIGHTS_BYTES  # of one that sleeps at level 1


@contextlib.asynccontextmanager
async def sleepers(
    models: Mapping[str, Mapping[str, Any]] = SLEEPERS,
    *,
    memory: SimulatedMemory | None = None,
    pool: Mapping[str, Any] | None = None,
    over_commits: bool = False,
    **rest: Any,
) -> AsyncIterator[Parts]:
    """A pool whose models sleep; `over_commits` says that the test causes some itself."""
    memory = memory or SimulatedMemory({0: TOTAL_BYTES})
    settings = {"sleep_memory_bytes": SLEEP_MEMORY_BYTES, **(pool or {})}
    async with running_pool(models, memory=memory, pool=settings, **rest) as parts:
        yield parts
    assert bool(memory.faults) == over_commits, memory.faults


def residencies(parts: Parts) -> dict[str, str]:
    return {v.name: str(v.residency) for v in parts.pool.view().models}


def is_now(parts: Parts, name: str, residency: Residency) -> bool:
    return parts.view(name).residency is residency


async def comes_to(parts: Parts, name: str, residency: Residency) -> None:
    await until(lambda: is_now(parts, name, residency), f"{name} to be {residency}")


async def answers(parts: Parts, name: str) -> None:
    """Lease the model and have its engine answer."""
    async with parts.pool.lease([name]) as lease, lease.engines[name].client.post("/tokenize", [], b"{}") as answer:
        assert answer.status == 200
        await answer.read()


async def put_to_sleep(parts: Parts, name: str) -> None:
    await use(parts, name)
    parts.pool.sleep(name)
    await comes_to(parts, name, Residency.ASLEEP)


async def test_an_evicted_model_sleeps_and_answers_again_after_a_wake() -> None:
    async with sleepers() as parts:
        for name in ("a", "b", "c"):
            await answers(parts, name)
        assert residencies(parts) == {"a": "asleep", "b": "awake", "c": "awake", "d": "cold"}
        assert parts.engines["a"].sleep_levels == [1]
        await answers(parts, "a")
        assert residencies(parts) == {"a": "awake", "b": "asleep", "c": "awake", "d": "cold"}
        a = parts.engines["a"]
        assert (a.loads, a.wakes, a.stops) == (1, 1, 0)
        assert parts.view("a").requests_total == 2


async def test_nothing_is_asked_of_a_sleeper_and_many_swaps_keep_the_memory_whole() -> None:
    async with sleepers() as parts:
        order = ["a", "b", "c", "d", "b", "a", "d", "c", "a", "c", "b", "d"]
        for name in order:
            await answers(parts, name)
        await asyncio.gather(*(answers(parts, name) for name in order))
        assert all(e.loads == 1 for e in parts.engines.values()), "all of them fit asleep"
        assert sum(e.wakes for e in parts.engines.values()) >= 6
        assert sum(len(e.inference) for e in parts.engines.values()) == 2 * len(order)


async def test_a_running_answer_keeps_its_model_awake() -> None:
    async with sleepers() as parts:
        a = await parts.pool.acquire(["a"])
        b = await parts.pool.acquire(["b"])
        parts.pool.sleep("a")
        c = ask(parts, "c")
        await waits(parts, "c")
        await turns()
        assert parts.engines["a"].sleeps == 0
        assert parts.view("a").draining == "an operator's order"
        a.release()
        (await c).release()
        b.release()
        assert is_now(parts, "a", Residency.ASLEEP)


async def test_the_one_that_was_used_last_longest_ago_is_stopped_when_host_ram_is_short() -> None:
    # Of two sleepers what their weights take; before the first load a model counts with all that it may use.
    async with sleepers(pool={"sleep_memory_bytes": 2 * HOST_BYTES}) as parts:
        for name in ("a", "b", "c", "d"):
            await answers(parts, name)
        assert residencies(parts) == {"a": "asleep", "b": "asleep", "c": "awake", "d": "awake"}
        assert parts.pool.view().sleep_reserved_bytes == 2 * HOST_BYTES
        await answers(parts, "b")
        # Host RAM stays pinned for one that was asleep once: c found none but a's.
        await comes_to(parts, "a", Residency.COLD)
        assert parts.engines["a"].stops == 1
        assert is_now(parts, "b", Residency.AWAKE)
        assert parts.pool.view().sleep_reserved_bytes <= 2 * HOST_BYTES
        await answers(parts, "a")
        assert parts.engines["a"].loads == 2


async def test_without_host_ram_evicted_models_are_stopped() -> None:
    async with sleepers(pool={"sleep_memory_bytes": 0}) as parts:
        for name in ("a", "b", "c"):
            await answers(parts, name)
        assert is_now(parts, "a", Residency.COLD)
        assert parts.engines["a"].sleeps == 0


async def test_a_model_that_cannot_be_woken_is_loaded_again_for_those_who_wait() -> None:
    async with sleepers() as parts:
        await put_to_sleep(parts, "a")
        a = parts.engines["a"]
        a.wake_error = EngineError("it answers otherwise than before")
        a.wake_gate.hold()
        waiting = [ask(parts, "a") for _ in range(3)]
        await waits(parts, "a", 3)
        a.wake_gate.release()
        for lease in await asyncio.gather(*waiting):
            lease.release()
        assert (a.wakes, a.stops, a.loads) == (1, 1, 2)
        assert not any(d.facts["what"] == "refuse" for d in parts.pool.journal.decisions)
        assert parts.view("a").error is None


async def test_a_model_that_cannot_fall_asleep_is_stopped_and_its_room_used() -> None:
    async with sleepers() as parts:
        for name in ("a", "b"):
            await use(parts, name)
        parts.engines["a"].sleep_error = EngineError("CUDA error in sleep")
        await answers(parts, "c")
        assert is_now(parts, "a", Residency.COLD)
        assert parts.view("a").error == "CUDA error in sleep"
        assert parts.view("a").failures == 0, "it may be loaded at once"
        await answers(parts, "a")


async def test_a_model_that_keeps_failing_to_sleep_is_no_longer_asked_to_until_it_is_reset() -> None:
    async with sleepers() as parts:
        a = parts.engines["a"]
        a.sleep_error = EngineError("no")
        for _ in range(2):
            await use(parts, "a")
            parts.pool.sleep("a")
            await comes_to(parts, "a", Residency.COLD)
        a.sleep_error = None
        for name in ("a", "b", "c"):
            await use(parts, name)
        assert is_now(parts, "a", Residency.COLD)
        assert a.sleeps == 2
        parts.pool.reset("a")
        await put_to_sleep(parts, "a")


async def test_an_engine_that_dies_asleep_is_loaded_by_the_next_request() -> None:
    async with sleepers() as parts:
        await put_to_sleep(parts, "a")
        await parts.engines["a"].die("killed by the kernel")
        await comes_to(parts, "a", Residency.COLD)
        assert parts.view("a").error == "killed by the kernel"
        assert parts.pool.view().sleep_reserved_bytes == 0
        await answers(parts, "a")
        assert parts.engines["a"].loads == 2
        assert parts.view("a").error is None


@pytest.mark.parametrize("delay", range(5))
@pytest.mark.parametrize("order", ["death first", "failure first"])
async def test_an_engine_that_dies_while_it_wakes_tells_it_twice(order: str, delay: int) -> None:
    """By its death, and by the wake that fails of it, in whichever order these come."""
    async with sleepers() as parts:
        await put_to_sleep(parts, "a")
        a = parts.engines["a"]
        a.wake_gate.hold()
        a.wake_error = EngineError("the connection to the engine was lost")
        waiting = ask(parts, "a")
        await until(lambda: a.wakes, "the wake to begin")
        await a.vanish()
        if order == "death first":
            a.tell_death()
            await turns(delay)
            a.wake_gate.release()
        else:
            a.wake_gate.release()
            await turns(delay)
            a.tell_death()
        (await waiting).release()
        assert (a.loads, a.stops) == (2, 1)
        # It counts as one failure: after two it would not be put to sleep again.
        parts.pool.sleep("a")
        await comes_to(parts, "a", Residency.ASLEEP)


@pytest.mark.parametrize("delay", range(5))
async def test_an_engine_that_dies_while_it_falls_asleep_tells_it_twice(delay: int) -> None:
    async with sleepers() as parts:
        await use(parts, "a")
        a = parts.engines["a"]
        a.sleep_gate.hold()
        a.sleep_error = EngineError("the connection to the engine was lost")
        parts.pool.sleep("a")
        await until(lambda: a.sleeps, "the sleep to begin")
        await a.vanish()
        a.tell_death()
        await turns(delay)
        a.sleep_gate.release()
        await comes_to(parts, "a", Residency.COLD)
        a.sleep_error = None
        await put_to_sleep(parts, "a")


async def test_a_sleep_that_hangs_ends_with_the_pool() -> None:
    async with sleepers() as parts:
        for name in ("a", "b"):
            await use(parts, name)
        a = parts.engines["a"]
        a.sleep_gate.hold()
        waiting = ask(parts, "c")
        await until(lambda: a.sleeps, "the sleep to begin")
        async with asyncio.timeout(5):
            await parts.pool.close()
        with pytest.raises(ShuttingDown):
            await waiting
        assert not a.remains
        assert a.stops == 1


async def test_a_wake_that_hangs_ends_with_a_stop_and_who_waits_hears_why() -> None:
    async with sleepers() as parts:
        await put_to_sleep(parts, "a")
        a = parts.engines["a"]
        a.wake_gate.hold()
        waiting = ask(parts, "a")
        await until(lambda: a.wakes, "the wake to begin")
        parts.pool.stop("a")
        with pytest.raises(ModelUnavailable, match="a was stopped: an operator's order"):
            await waiting
        await comes_to(parts, "a", Residency.COLD)
        assert not a.remains
        a.wake_gate.release()
        await answers(parts, "a")


async def test_an_order_to_stop_holds_once_it_has_fallen_asleep() -> None:
    async with sleepers() as parts:
        await use(parts, "a")
        a = parts.engines["a"]
        a.sleep_gate.hold()
        parts.pool.sleep("a")
        await until(lambda: a.sleeps, "the sleep to begin")
        parts.pool.stop("a")
        await turns()
        a.sleep_gate.release()
        await comes_to(parts, "a", Residency.COLD)
        assert (a.stops, a.wakes) == (1, 0)


async def test_what_was_measured_serves_the_next_daemon(tmp_path: Path) -> None:
    path, clock = tmp_path / "measurements.sqlite", Hands()
    async with sleepers(clock=clock, store=MeasurementStore.open(path)) as first:
        a = first.engines["a"]
        a.load_gate.hold()
        waiting = ask(first, "a")
        await until(lambda: a.progress, "the load to begin")
        clock.time += 7
        a.load_gate.release()
        (await waiting).release()
        a.sleep_gate.hold()
        first.pool.sleep("a")
        await until(lambda: a.sleeps, "the sleep to begin")
        clock.time += 2
        a.sleep_gate.release()
        await comes_to(first, "a", Residency.ASLEEP)
        a.wake_gate.hold()
        waiting = ask(first, "a")
        await until(lambda: a.wakes, "the wake to begin")
        clock.time += 0.5
        a.wake_gate.release()
        (await waiting).release()
        a.stop_gate.hold()
        first.pool.stop("a")
        await until(lambda: a.stops, "the stop to begin")
        clock.time += 1
        a.stop_gate.release()
        await comes_to(first, "a", Residency.COLD)
        assert first.view("a").times == Times(load_s=7, wake_s=0.5, sleep_s=2, stop_s=1)
    async with sleepers(clock=clock, store=MeasurementStore.open(path)) as second:
        view = second.view("a")
        assert view.times == Times(load_s=7, wake_s=0.5, sleep_s=2, stop_s=1)
        (share,) = view.memory.devices
        assert share.awake_bytes == int(TOTAL_BYTES * 0.4)
        assert share.asleep_bytes == ASLEEP_BYTES
        assert (view.memory.weights_bytes, view.memory.kv_cache_bytes) == (WEIGHTS_BYTES, KV_CACHE_BYTES)
        (spec,) = [s for s in second.daemon.reloader.blueprint.specs if s.name == "a"]
        assert (spec.asleep, spec.host_bytes) == ({0: ASLEEP_BYTES}, HOST_BYTES), (
            "what the core counts with from now on"
        )
        a = second.engines["a"]
        a.load_gate.hold()
        waiting = ask(second, "a")
        await until(lambda: a.progress, "the load to begin")
        clock.time += 2
        assert second.view("a").eta_s == 5
        assert second.pool.view().queue[0].eta_s == 5
        a.load_gate.release()
        (await waiting).release()
        assert a.kv_cache_bytes == KV_CACHE_BYTES
        second.pool.sleep("a")
        await comes_to(second, "a", Residency.ASLEEP)
        assert second.pool.view().devices[0].reserved_bytes == ASLEEP_BYTES


async def test_what_a_sleeper_keeps_is_reserved_as_measured() -> None:
    kept = 9 << 30
    async with sleepers() as parts:
        parts.engines["a"].asleep_bytes = kept
        await put_to_sleep(parts, "a")
        (device,) = parts.view("a").memory.devices
        assert (device.reserved_bytes, device.asleep_bytes) == (kept, kept)
        assert parts.view("a").memory.host_reserved_bytes == HOST_BYTES
        # Two beside it are 89 of 95 GiB; what it is taken to keep at first, 2 GiB, would let more in.
        await answers(parts, "b")
        await answers(parts, "c")
        assert residencies(parts) == {"a": "asleep", "b": "awake", "c": "awake", "d": "cold"}


async def test_the_first_good_loads_cache_is_given_to_the_next_load_and_forgotten_after_a_bad_one() -> None:
    async with sleepers() as parts:
        a = parts.engines["a"]
        given: list[int | None] = []
        a.after_load = lambda: given.append(a.kv_cache_bytes)
        await use(parts, "a")
        parts.pool.stop("a")
        await comes_to(parts, "a", Residency.COLD)
        a.fail_loads("no room for so large a cache")
        with pytest.raises(ModelUnavailable):
            await parts.pool.acquire(["a"])
        assert a.kv_cache_bytes == KV_CACHE_BYTES
        await comes_to(parts, "a", Residency.COLD)
        a.load_error = None
        await use(parts, "a")
        parts.pool.stop("a")
        await comes_to(parts, "a", Residency.COLD)
        await use(parts, "a")
        assert given == [None, None, KV_CACHE_BYTES]


async def test_a_load_that_runs_out_of_memory_is_tried_once_more_when_all_idle_ones_have_left() -> None:
    memory = SimulatedMemory({0: TOTAL_BYTES})
    async with sleepers(memory=memory, over_commits=True) as parts:
        await put_to_sleep(parts, "a")
        await use(parts, "b")
        memory.take("somebody else", 0, 20 << 30)  # 1 + 40 + 20 leave no 40
        lease = await asyncio.wait_for(parts.pool.acquire(["c"]), 20)
        assert parts.engines["c"].loads == 2
        assert residencies(parts) == {"a": "cold", "b": "cold", "c": "awake", "d": "cold"}
        lease.release()
        assert parts.view("c").error is None
        whys = [d.facts["why"] for d in parts.pool.journal.decisions if d.facts["what"] == "stop"]
        assert whys[0] == "out of memory; it is loaded once more when all idle models have left"
        assert len(whys) == 3


async def test_a_load_that_runs_out_of_memory_twice_is_told() -> None:
    async with sleepers() as parts:
        c = parts.engines["c"]
        c.load_error = EngineError("torch.OutOfMemoryError: 2 GiB lacking", out_of_memory=True)
        with pytest.raises(ModelUnavailable, match="2 GiB lacking"):
            await parts.pool.acquire(["c"])
        assert c.loads == 2
        await comes_to(parts, "c", Residency.COLD)
        c.load_error = None
        await answers(parts, "c")


async def test_a_pinned_model_stays_awake_when_others_fall_asleep() -> None:
    async with sleepers() as parts:
        for name in ("a", "b"):
            await use(parts, name)
        parts.pool.pin("a", True)
        await use(parts, "c")
        assert residencies(parts) == {"a": "awake", "b": "asleep", "c": "awake", "d": "cold"}
        parts.pool.pin("a", False)
        await use(parts, "b")
        assert is_now(parts, "a", Residency.ASLEEP)


async def test_a_model_at_level_two_takes_no_host_ram() -> None:
    models = {**SLEEPERS, "a": {**SLEEPERS["a"], "sleep_level": 2}}
    async with sleepers(models, pool={"sleep_memory_bytes": 0}) as parts:
        await put_to_sleep(parts, "a")
        assert parts.engines["a"].sleep_levels == [2]
        assert parts.pool.view().sleep_reserved_bytes == 0
        await answers(parts, "a")


async def test_an_idle_model_falls_asleep_by_the_clock_alone() -> None:
    async with sleepers({"a": {**SLEEPERS["a"], "idle_ttl_s": 0.02}}) as parts:
        await use(parts, "a")
        await comes_to(parts, "a", Residency.ASLEEP)
        await answers(parts, "a")
        assert parts.engines["a"].loads == 1
