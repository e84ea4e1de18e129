"""What the fake engine does beyond the contract, that tests of the pool build on: its memory, gates and faults."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from arena_server.engine.base import EngineError
from arena_server.engine.client import EngineLost
from tests.support.fake_engine import FakeEngine
from tests.support.gate import turns
from tests.support.simulated_memory import OverCommit, SimulatedMemory


@pytest.fixture
def memory() -> SimulatedMemory:
    return SimulatedMemory({0: 100, 1: 100})


@pytest.fixture
async def engine(memory: SimulatedMemory) -> AsyncIterator[FakeEngine]:
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        engine = FakeEngine("a", Path(directory) / "1", memory, devices=(0, 1), awake_bytes=60, asleep_bytes=7)
        yield engine
        for gate in (engine.load_gate, engine.sleep_gate, engine.wake_gate, engine.stop_gate):
            gate.release()
        await engine.stop()


def test_memory_is_taken_by_name_and_never_more_than_there_is(memory: SimulatedMemory) -> None:
    memory.take("a", 0, 60)
    memory.take("a", 0, 70)
    memory.take("b", 0, 30)
    with pytest.raises(OverCommit):
        memory.take("c", 0, 1)
    assert memory.used_bytes(0) == 100
    assert len(memory.faults) == 1
    memory.take("c", 1, 100)
    memory.free("a")
    memory.take("c", 0, 70)
    assert (memory.taken("a", 0), memory.taken("b", 0), memory.taken("c", 0)) == (0, 30, 70)


async def test_it_has_memory_from_the_beginning_of_a_load_to_the_end_of_a_stop(
    engine: FakeEngine, memory: SimulatedMemory
) -> None:
    engine.load_gate.hold()
    load = asyncio.create_task(engine.load(kv_cache_bytes=5))
    await turns()
    assert (memory.used_bytes(0), memory.used_bytes(1)) == (60, 60)
    engine.load_gate.release()
    await load
    assert engine.kv_cache_bytes == 5
    await engine.die()
    engine.stop_gate.hold()
    stop = asyncio.create_task(engine.stop())
    await turns()
    assert memory.used_bytes(0) == 60
    engine.stop_gate.release()
    await stop
    assert (memory.used_bytes(0), memory.used_bytes(1)) == (0, 0)


async def test_it_gives_memory_back_when_it_sleeps_and_takes_it_before_it_wakes(
    engine: FakeEngine, memory: SimulatedMemory
) -> None:
    await engine.load()
    engine.sleep_gate.hold()
    engine.wake_gate.hold()
    sleep = asyncio.create_task(engine.sleep(2))
    await turns()
    assert memory.used_bytes(1) == 60
    engine.sleep_gate.release()
    await sleep
    assert memory.used_bytes(1) == 7
    wake = asyncio.create_task(engine.wake())
    await turns()
    assert memory.used_bytes(1) == 60
    engine.wake_gate.release()
    await wake
    assert (engine.sleeps, engine.sleep_levels, engine.wakes) == (1, [2], 1)
    assert engine.faults == memory.faults == []


async def test_a_load_or_waking_without_room_is_a_lack_of_memory(engine: FakeEngine, memory: SimulatedMemory) -> None:
    memory.take("b", 1, 50)
    with pytest.raises(EngineError) as failed:
        await engine.load()
    assert failed.value.out_of_memory
    await engine.stop()
    memory.free("b")
    await engine.load()
    await engine.sleep(1)
    memory.take("b", 1, 50)
    with pytest.raises(EngineError) as failed:
        await engine.wake()
    assert failed.value.out_of_memory
    assert len(memory.faults) == 2


async def test_it_fails_to_sleep_and_to_wake_when_told_to(engine: FakeEngine) -> None:
    await engine.load()
    engine.wake_error = EngineError("no waking")
    await engine.sleep(1)
    with pytest.raises(EngineError, match="no waking"):
        await engine.wake()
    await engine.stop()
    engine.sleep_error = EngineError("no sleep")
    await engine.load()
    with pytest.raises(EngineError, match="no sleep"):
        await engine.sleep(1)


async def test_a_request_while_it_sleeps_is_a_fault(engine: FakeEngine) -> None:
    await engine.load()
    await engine.sleep(1)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # the fault is raised where nobody waits for it, too
    with contextlib.suppress(EngineLost):
        async with engine.client.get("/health"):
            pass
    assert engine.faults == ["a: GET /health though it sleeps"]


async def test_a_sleep_while_a_request_runs_is_a_fault(engine: FakeEngine) -> None:
    await engine.load()
    async with engine.client.get("/health") as answer:
        await answer.read()
        with pytest.raises(AssertionError, match="sleep while a request runs"):
            await engine.sleep(1)


@pytest.mark.parametrize("step", ["sleep twice", "wake awake", "sleep unloaded", "sleep at level 0"])
async def test_a_step_out_of_turn_is_a_fault(engine: FakeEngine, step: str) -> None:
    if step != "sleep unloaded":
        await engine.load()
    if step == "sleep twice":
        await engine.sleep(1)
    with pytest.raises(AssertionError):
        await (engine.wake() if step == "wake awake" else engine.sleep(0 if step.endswith("0") else 1))
    assert len(engine.faults) == 1
