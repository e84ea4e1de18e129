"""What others hold of the devices: looked at where nothing is under way, told to the core in coarse steps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from arena_server.gpu.probe import ProbeError
from arena_server.pool import survey
from arena_server.pool.residency import Residency
from tests.support.daemon_app import MODELS, TOTAL_BYTES, Parts, running_daemon, running_pool
from tests.support.fake_probe import FakeProbe
from tests.support.gate import turns, until
from tests.support.leases import ask, use
from tests.support.simulated_memory import SimulatedMemory

GIB = 1 << 30
RESERVE_BYTES = int(TOTAL_BYTES * 0.05)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Parts]:
    """The engines take simulated memory; the probe adds what the test says."""
    memory = SimulatedMemory({0: TOTAL_BYTES})
    async with running_pool(memory=memory) as parts:
        yield parts
    assert not memory.faults


def told(parts: Parts) -> dict[int, int]:
    """What the core was told."""
    return dict(parts.pool._core.ledger.outside)


def look(parts: Parts) -> dict[int, int]:
    parts.pool._survey.look()
    return told(parts)


async def test_what_is_kept_free_for_others_is_theirs() -> None:
    async with running() as parts:
        parts.probe.uses[0] = RESERVE_BYTES
        assert look(parts) == {}
        assert parts.pool.view().devices[0].outside is not None
        parts.probe.uses[0] = RESERVE_BYTES + 10 * GIB
        assert look(parts) == {0: 10 * GIB}
        parts.probe.uses[0] = 0
        assert look(parts) == {}


async def test_small_changes_are_not_told() -> None:
    async with running() as parts:
        parts.probe.uses[0] = RESERVE_BYTES + 10 * GIB - 5
        assert look(parts) == {0: 10 * GIB}, "rounded up"
        parts.probe.uses[0] -= survey.GRAIN_BYTES // 2
        assert look(parts) == {0: 10 * GIB}
        parts.probe.uses[0] -= survey.GRAIN_BYTES
        assert look(parts) == {0: 10 * GIB - survey.GRAIN_BYTES}


async def test_our_own_engines_are_none_of_the_others() -> None:
    async with running() as parts:
        await use(parts, "alpha")
        assert look(parts) == {}
        parts.probe.uses[0] = RESERVE_BYTES + GIB
        assert look(parts) == {0: GIB}


async def test_a_device_in_transition_is_not_looked_at() -> None:
    async with running() as parts:
        alpha = parts.engines["alpha"]
        alpha.load_gate.hold()
        waiting = ask(parts, "alpha")
        await until(lambda: alpha.progress, "the load to begin")
        assert look(parts) == {}, "nobody could tell whose the new 40 GiB are"
        alpha.load_gate.release()
        (await waiting).release()
        assert look(parts) == {}


async def test_a_device_that_is_not_in_transition_is_looked_at_meanwhile() -> None:
    models = {name: {**MODELS["beta"], "devices": [device]} for name, device in (("zero", 0), ("one", 1))}
    memory = SimulatedMemory({0: TOTAL_BYTES, 1: TOTAL_BYTES})
    async with running_pool(models, memory=memory) as parts:
        parts.engines["zero"].load_gate.hold()
        waiting = ask(parts, "zero")
        await until(lambda: parts.engines["zero"].progress, "the load to begin")
        parts.probe.uses.update({0: 50 * GIB, 1: RESERVE_BYTES + 2 * GIB})
        assert look(parts) == {1: 2 * GIB}
        parts.engines["zero"].load_gate.release()
        (await waiting).release()


async def test_a_device_that_fell_silent_keeps_its_last_figure() -> None:
    async with running() as parts:
        parts.probe.uses[0] = RESERVE_BYTES + GIB
        look(parts)
        parts.probe.error = ProbeError("GPU is lost")
        assert look(parts) == {0: GIB}
        parts.probe.error = None
        parts.probe.uses[0] = 0
        assert look(parts) == {}


async def test_a_load_waits_for_room_that_others_hold_and_begins_when_they_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(survey, "EVERY_S", 0.01)
    async with running() as parts:
        parts.probe.uses[0] = 80 * GIB
        watching = asyncio.create_task(parts.pool.watch_devices())
        await until(lambda: told(parts), "the device to be looked at")
        waiting = ask(parts, "alpha")
        await turns()
        assert parts.engines["alpha"].loads == 0
        blocked = parts.pool.view().devices[0].blocked
        assert blocked is not None
        assert blocked.endswith("no room for alpha, beta, org/gamma")
        parts.probe.uses[0] = 0
        (await waiting).release()
        watching.cancel()


async def test_a_device_that_is_full_of_others_shuts_out_its_own_models_only() -> None:
    models = {name: {**MODELS["beta"], "devices": [device]} for name, device in (("zero", 0), ("one", 1))}
    async with running_pool(models, memory=SimulatedMemory({0: TOTAL_BYTES, 1: TOTAL_BYTES})) as parts:
        parts.probe.uses[1] = TOTAL_BYTES + GIB
        look(parts)
        blocked = parts.pool.view().devices[1].blocked
        assert blocked is not None
        assert blocked.endswith("no room for one")


async def test_what_others_took_meanwhile_keeps_nobody_awake_from_staying() -> None:
    """An engine that runs has its memory; only what would be loaded next has to wait."""
    async with running() as parts:
        await use(parts, "alpha")
        parts.probe.uses[0] = 60 * GIB
        assert look(parts) == {0: 55 * GIB}
        await use(parts, "alpha")
        assert parts.view("alpha").residency is Residency.AWAKE
        assert parts.engines["alpha"].loads == 1


async def test_host_ram_is_not_looked_at() -> None:
    async with running_pool(probe=FakeProbe(gpu=False)) as parts:
        parts.probe.uses[0] = 90 * GIB
        assert look(parts) == {}
        await use(parts, "alpha")


async def test_what_others_hold_is_known_before_the_first_preload() -> None:
    probe = FakeProbe()
    probe.start(4242, 90 << 30)
    models = {"alpha": {"model": "org/alpha", "gpu_memory_utilization": 0.4, "preload": True}}
    async with running_daemon(models, probe=probe) as daemon:
        await turns()
        assert daemon.engines["alpha"].loads == 0
        assert daemon.pool.view().devices[0].blocked


async def test_preloads_that_find_the_queue_full_do_not_keep_the_daemon_from_serving() -> None:
    models = {
        name: {"model": f"org/{name}", "gpu_memory_utilization": 0.4, "preload": True} for name in ("alpha", "beta")
    }
    async with running_daemon(models, pool={"max_queue": 1}) as daemon:
        await until(lambda: daemon.view("alpha").residency is Residency.AWAKE, "the first to be loaded")
