"""What engines hold on the devices and what others do there, as the devices themselves see it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import psutil
import pytest

from arena_server.gpu import device_memory
from arena_server.gpu.device_memory import DeviceMemory, Outside, ProcessUse, Readings
from arena_server.gpu.device_use import DeviceUse
from arena_server.gpu.probe import ProbeError
from tests.support.fake_probe import FakeProbe
from tests.support.gate import until

GIB = 1 << 30
SIZE = 40 * GIB
# Process ids that no process has (the kernel's are below 2 to the 22nd).
ENGINE, SECOND, STRANGER, NEWCOMER = 1 << 22, (1 << 22) + 1, (1 << 22) + 2, (1 << 22) + 3
LOST = ProbeError("GPU is lost")


@pytest.fixture
def probe() -> FakeProbe:
    """One device that lists its processes."""
    probe = FakeProbe()
    probe.lists[0] = {}
    return probe


@pytest.fixture
def blind() -> FakeProbe:
    """One device that does not say which process has what."""
    return FakeProbe()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for step in ("SAMPLE_S", "POLL_S"):
        monkeypatch.setattr(device_memory, step, 0.001)


def awake(probe: FakeProbe, model: str = "alpha", pid: int = ENGINE, bytes_: int = SIZE) -> DeviceMemory:
    """A model that was loaded just now on device 0, which is listed if anything is."""
    memory = DeviceMemory(probe)
    memory.settle([0])
    take(probe, pid, bytes_)
    memory.note_awake(model, [0], [pid])
    return memory


def take(probe: FakeProbe, pid: int, bytes_: int) -> None:
    if probe.lists[0] is None:
        probe.used += bytes_
    else:
        probe.start(pid, bytes_)


@contextlib.asynccontextmanager
async def waiting(memory: DeviceMemory, probe: FakeProbe, model: str = "alpha") -> AsyncIterator[asyncio.Task[bool]]:
    """`returned` at work, which has looked at least twice and not found the memory back."""
    task = asyncio.create_task(memory.returned(model, [0]))
    try:
        await looked_again(probe)
        assert not task.done()
        yield task
        assert task.done()
    finally:
        task.cancel()


async def looked_again(probe: FakeProbe) -> None:
    reads = probe.reads
    await until(lambda: probe.reads >= reads + 2, "the device to be looked at again")


# --- What a model holds ---


def test_a_model_holds_what_its_processes_have(probe: FakeProbe) -> None:
    memory = DeviceMemory(probe)
    memory.settle([0])
    probe.start(ENGINE, SIZE)
    probe.start(SECOND, GIB)
    probe.start(STRANGER, 7 * GIB)
    memory.note_awake("alpha", [0], [ENGINE, SECOND])
    assert memory.readings("alpha").awake_bytes == {0: SIZE + GIB}


def test_a_model_holds_what_use_rose_by_where_processes_are_not_listed(blind: FakeProbe) -> None:
    blind.used = 3 * GIB
    memory = awake(blind)
    blind.used -= SIZE - GIB
    memory.note_asleep("alpha", [0], [ENGINE])
    blind.used += SIZE - 2 * GIB
    memory.note_awake("alpha", [0], [ENGINE])
    readings = memory.readings("alpha")
    assert (readings.awake_bytes, readings.asleep_bytes) == ({0: SIZE - GIB}, {0: GIB})
    assert readings.load_peak_bytes == {}


@pytest.mark.parametrize("listed", [{}, {NEWCOMER: SIZE}, {ENGINE: 0}], ids=["none", "under host's pid", "no bytes"])
def test_a_model_that_a_container_hides_holds_what_use_rose_by(probe: FakeProbe, listed: dict[int, int]) -> None:
    memory = DeviceMemory(probe)
    memory.settle([0])
    probe.used += SIZE
    probe.lists[0] = listed
    memory.note_awake("alpha", [0], [ENGINE])
    assert memory.readings("alpha").awake_bytes == {0: SIZE}
    assert memory.outside([0]) == {0: Outside(0, ())}


def test_processes_need_not_be_known(probe: FakeProbe) -> None:
    probe.start(STRANGER, GIB)
    memory = DeviceMemory(probe)
    memory.settle([0])
    probe.start(ENGINE, SIZE)
    probe.start(STRANGER, 7 * GIB)  # was there before, so what it took meanwhile is not the model's
    memory.note_awake("alpha", [0], [])
    assert memory.readings("alpha").awake_bytes == {0: SIZE}


def test_another_programs_end_does_not_make_a_model_hold_less_than_nothing(blind: FakeProbe) -> None:
    blind.used = SIZE
    memory = awake(blind, bytes_=-SIZE)
    assert memory.readings("alpha").awake_bytes == {0: 0}


def test_each_device_is_measured_for_itself() -> None:
    probe = FakeProbe(2)
    probe.lists[0] = {}  # the other does not list its processes
    probe.uses = {0: GIB, 1: 5 * GIB}
    memory = DeviceMemory(probe)
    memory.settle([0, 1])
    probe.start(ENGINE, SIZE, device=0)
    probe.uses[1] += SIZE + GIB
    memory.note_awake("alpha", [0, 1], [ENGINE, SECOND])
    assert memory.readings("alpha").awake_bytes == {0: SIZE, 1: SIZE + GIB}
    outside = memory.outside([0, 1])
    assert {d: o.bytes for d, o in outside.items()} == {0: GIB, 1: 5 * GIB}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_a_silent_device_did_not_tell_is_not_known(
    blind: FakeProbe, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    memory = DeviceMemory(blind)
    blind.error = LOST if moment == "before" else None
    memory.settle([0])
    blind.error = LOST if moment == "after" else None
    blind.used += SIZE
    memory.note_awake("alpha", [0], [ENGINE])
    blind.error = None
    assert memory.readings("alpha").awake_bytes == {}
    assert memory.outside([0]) == {}
    memory.settle([0])
    blind.used -= SIZE
    memory.note_asleep("alpha", [0], [ENGINE])
    assert memory.readings("alpha").asleep_bytes == {}, "a difference to something unknown is unknown"
    assert caplog.text.count("GPU is lost") == 1


def test_a_baseline_from_before_a_silence_is_not_used(blind: FakeProbe) -> None:
    memory = awake(blind)
    blind.error = LOST
    memory.settle([0])
    blind.error = None
    blind.used += SIZE
    memory.note_awake("beta", [0], [])
    assert memory.readings("beta").awake_bytes == {}


def test_a_list_that_fails_leaves_the_sum(probe: FakeProbe, caplog: pytest.LogCaptureFixture) -> None:
    probe.list_error = ProbeError("Insufficient Size")
    memory = awake(probe)
    assert memory.readings("alpha").awake_bytes == {0: SIZE}
    assert caplog.text.count("Insufficient Size") == 1


def test_a_device_that_falls_silent_again_is_logged_again(blind: FakeProbe, caplog: pytest.LogCaptureFixture) -> None:
    memory = DeviceMemory(blind)
    for error in (LOST, LOST, None, LOST):
        blind.error = error
        memory.settle([0])
    assert caplog.text.count("GPU is lost") == 2


# --- The peak of a load ---


async def test_the_peak_of_a_load_is_what_use_rose_to_meanwhile(blind: FakeProbe) -> None:
    blind.used = 3 * GIB
    memory = DeviceMemory(blind)
    memory.settle([0])
    async with memory.load_peak("alpha", [0]):
        blind.used += SIZE
        await looked_again(blind)
        blind.used -= 10 * GIB
        await looked_again(blind)
    assert memory.readings("alpha").load_peak_bytes == {0: SIZE}


async def test_the_last_moment_of_a_load_counts_too(blind: FakeProbe) -> None:
    memory = DeviceMemory(blind)
    memory.settle([0])
    async with memory.load_peak("alpha", [0]):
        blind.used = SIZE
    assert memory.readings("alpha").load_peak_bytes == {0: SIZE}


async def test_nobody_looks_after_the_end_of_a_load(blind: FakeProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "SAMPLE_S", 0.0)
    memory = DeviceMemory(blind)
    memory.settle([0])
    tasks = asyncio.all_tasks()
    for error in (None, ValueError("load failed")):
        with contextlib.suppress(ValueError):
            async with memory.load_peak("alpha", [0]):
                await looked_again(blind)
                if error:
                    raise error
        await until(lambda: asyncio.all_tasks() <= tasks, "the sampling to end")


async def test_the_peak_of_a_load_that_failed_is_not_kept(blind: FakeProbe) -> None:
    memory = DeviceMemory(blind)
    memory.settle([0])
    with contextlib.suppress(ValueError):
        async with memory.load_peak("alpha", [0]):
            blind.used = SIZE
            raise ValueError("load failed")
    assert memory.readings("alpha").load_peak_bytes == {}


async def test_a_peak_that_may_have_been_missed_is_not_known() -> None:
    probe = FakeProbe(2)
    memory = DeviceMemory(probe)
    memory.settle([0, 1])
    async with memory.load_peak("alpha", [0, 1]):
        probe.silent = {0}
        await looked_again(probe)
        probe.silent = set()
        probe.uses = {0: GIB, 1: SIZE}
        await looked_again(probe)
    assert memory.readings("alpha").load_peak_bytes == {1: SIZE}


async def test_a_load_from_an_unknown_start_has_no_peak(blind: FakeProbe) -> None:
    memory = DeviceMemory(blind)
    async with memory.load_peak("alpha", [0]):
        blind.used = SIZE
    assert memory.readings("alpha").load_peak_bytes == {}


# --- Memory that comes back ---


async def test_memory_is_waited_for_in_full(blind: FakeProbe) -> None:
    memory = awake(blind)
    async with waiting(memory, blind) as task:
        blind.used -= SIZE // 2
        await looked_again(blind)
        assert not task.done()
        blind.used -= SIZE // 2
        assert await task


async def test_a_little_that_others_took_meanwhile_does_not_matter(blind: FakeProbe) -> None:
    memory = awake(blind)
    blind.used -= int(SIZE * 0.95)
    assert await memory.returned("alpha", [0])


async def test_another_program_that_grew_is_not_mistaken_for_memory_that_is_not_back(probe: FakeProbe) -> None:
    probe.start(STRANGER, GIB)
    memory = awake(probe)
    async with waiting(memory, probe) as task:
        probe.start(STRANGER, SIZE)
        probe.start(NEWCOMER, SIZE)
        probe.end(ENGINE)
        assert await task


async def test_another_program_that_ended_is_not_mistaken_for_memory_that_is_back(probe: FakeProbe) -> None:
    probe.start(STRANGER, SIZE)
    memory = awake(probe)
    probe.end(STRANGER)
    async with waiting(memory, probe) as task:
        probe.end(ENGINE)
        assert await task


async def test_another_model_that_grew_is_not_mistaken_for_memory_that_is_not_back(probe: FakeProbe) -> None:
    memory = awake(probe)
    probe.start(SECOND, GIB)
    memory.note_awake("beta", [0], [SECOND])
    probe.start(SECOND, SIZE)
    probe.end(ENGINE)
    assert await memory.returned("alpha", [0])


async def test_memory_of_a_process_that_is_no_more_listed_is_waited_for(probe: FakeProbe) -> None:
    memory = awake(probe)
    probe.end(ENGINE, back=False)
    async with waiting(memory, probe) as task:
        probe.used -= SIZE
        assert await task


async def test_memory_of_a_model_under_unknown_process_ids_is_waited_for(probe: FakeProbe) -> None:
    """A driver that lists the host's process ids in a container: they must not count as other programs."""
    memory = DeviceMemory(probe)
    memory.settle([0])
    probe.start(NEWCOMER, SIZE)
    memory.note_awake("alpha", [0], [ENGINE])
    async with waiting(memory, probe) as task:
        probe.end(NEWCOMER)
        assert await task


async def test_memory_of_a_load_that_failed_is_waited_for(probe: FakeProbe) -> None:
    """Its processes were never noted, so who is new in the list may be one of them."""
    probe.start(STRANGER, GIB)
    memory = DeviceMemory(probe)
    memory.settle([0])
    probe.start(ENGINE, SIZE)
    async with waiting(memory, probe) as task:
        probe.start(STRANGER, 7 * GIB)
        probe.end(ENGINE)
        assert await task


async def test_memory_may_be_back_before_anybody_looks(blind: FakeProbe) -> None:
    memory = awake(blind)
    blind.used -= SIZE
    assert await memory.returned("alpha", [0])


async def test_memory_is_waited_for_on_every_device() -> None:
    probe = FakeProbe(2)
    memory = DeviceMemory(probe)
    memory.settle([0, 1])
    probe.uses = {0: SIZE, 1: SIZE}
    memory.note_awake("alpha", [0, 1], [])
    probe.uses[0] = 0
    task = asyncio.create_task(memory.returned("alpha", [0, 1]))
    await looked_again(probe)
    await looked_again(probe)
    assert not task.done()
    probe.uses[1] = 0
    assert await task


async def test_memory_that_never_comes_back_is_waited_for_a_while_only(
    blind: FakeProbe, caplog: pytest.LogCaptureFixture
) -> None:
    memory = awake(blind)
    assert not await memory.returned("alpha", [0], limit_s=0.01)
    assert f"alpha ended 0.01 s ago and its memory is not back; in use by device: {{0: {SIZE}}}" in caplog.text
    assert memory.outside([0]) == {0: Outside(SIZE, ())}, "it is nobody's now"
    assert await memory.returned("alpha", [0]), "it must not be waited for again"


async def test_a_model_that_slept_gives_back_what_it_held_asleep(blind: FakeProbe) -> None:
    memory = awake(blind)
    blind.used -= SIZE - 2 * GIB
    memory.note_asleep("alpha", [0], [ENGINE])
    async with waiting(memory, blind) as task:
        blind.used = 0
        assert await task


@pytest.mark.parametrize("moment", ["before", "during"])
async def test_a_silent_device_blocks_nobody(blind: FakeProbe, moment: str) -> None:
    memory = awake(blind)
    if moment == "before":
        blind.error = LOST
        assert await memory.returned("alpha", [0])
    else:
        async with waiting(memory, blind) as task:
            blind.error = LOST
            assert await task
    blind.error = None
    assert memory.outside([0]) == {0: Outside(SIZE, ())}


async def test_a_list_that_fails_once_does_not_end_the_wait(probe: FakeProbe) -> None:
    memory = awake(probe)
    async with waiting(memory, probe) as task:
        probe.list_error = ProbeError("Insufficient Size")
        await looked_again(probe)
        assert not task.done()
        probe.list_error = None
        probe.end(ENGINE)
        assert await task


async def test_what_was_measured_outlives_the_engine(blind: FakeProbe) -> None:
    memory = awake(blind)
    blind.used = 0
    await memory.returned("alpha", [0])
    assert memory.readings("alpha").awake_bytes == {0: SIZE}


async def test_a_model_that_is_loaded_again_holds_nothing_before(blind: FakeProbe) -> None:
    memory = awake(blind)
    blind.used = 0
    await memory.returned("alpha", [0])
    blind.used = GIB
    memory.note_awake("alpha", [0], [])
    assert memory.readings("alpha").awake_bytes == {0: GIB}


# --- What others do there ---


def test_processes_that_are_not_ours_are_named(probe: FakeProbe) -> None:
    memory = awake(probe)
    probe.start(NEWCOMER, GIB)
    probe.start(os.getpid(), 7 * GIB)
    probe.used += GIB // 2  # the driver's own
    mine = ProcessUse(os.getpid(), psutil.Process().name(), 7 * GIB)
    assert memory.outside([0]) == {0: Outside(8 * GIB + GIB // 2, (mine, ProcessUse(NEWCOMER, "?", GIB)))}


async def test_memory_that_did_not_come_back_is_outside(probe: FakeProbe) -> None:
    memory = awake(probe)
    probe.end(ENGINE, back=False)
    assert not await memory.returned("alpha", [0], limit_s=0.01)
    assert memory.outside([0]) == {0: Outside(SIZE, ())}


def test_what_a_model_took_since_it_was_noted_is_not_outside(probe: FakeProbe) -> None:
    memory = awake(probe)
    probe.start(ENGINE, GIB)
    assert memory.outside([0]) == {0: Outside(0, ())}


def test_what_is_above_the_models_holdings_is_outside_where_processes_are_not_listed(blind: FakeProbe) -> None:
    memory = awake(blind)
    blind.used += SIZE
    memory.note_awake("beta", [0], [])
    blind.used += GIB
    assert memory.outside([0]) == {0: Outside(GIB, ())}


def test_outside_is_never_negative(probe: FakeProbe, blind: FakeProbe) -> None:
    for each in (probe, blind):
        memory = awake(each)
        each.used = 0
        assert memory.outside([0]) == {0: Outside(0, ())}


def test_a_device_without_models_is_all_outside(probe: FakeProbe) -> None:
    probe.used = GIB
    assert DeviceMemory(probe).outside([0]) == {0: Outside(GIB, ())}


def test_what_is_outside_on_a_silent_device_is_not_known() -> None:
    probe = FakeProbe(2)
    probe.silent = {1}
    assert DeviceMemory(probe).outside([0, 1]) == {0: Outside(0, ())}


# --- Host RAM ---


async def test_host_ram_is_not_accounted_for() -> None:
    probe = FakeProbe(gpu=False)
    memory = DeviceMemory(probe)
    memory.settle([0])
    async with memory.load_peak("alpha", [0]):
        probe.used = SIZE
    memory.note_awake("alpha", [0], [ENGINE])
    memory.note_asleep("alpha", [0], [ENGINE])
    assert await memory.returned("alpha", [0])
    assert memory.readings("alpha") == Readings({}, {}, {})
    assert memory.outside([0]) == {}
    assert probe.reads == 0


# --- One reading ---


def test_a_rise_leaves_out_what_others_did() -> None:
    before = DeviceUse(100, {1: 40, 2: 60})
    now = DeviceUse(150, {1: 70, 3: 80})
    assert now.rise_since(before, frozenset()) == 50
    assert now.rise_since(before, {1, 2, 3}) == 0
    assert now.rise_since(before, {2}) == 110
    assert now.rise_since(DeviceUse(100, None), {1}) == 50
