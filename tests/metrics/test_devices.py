"""What `/metrics` says of the devices and disks."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from arena_server.gpu.probe import ProbeError, Telemetry
from arena_server.metrics import device_state
from arena_server.metrics.device_state import DeviceState
from tests.metrics.scraped import scrape
from tests.support.daemon_app import Hands, running_daemon
from tests.support.fake_probe import TOTAL_BYTES, FakeProbe
from tests.support.gate import LIMIT_S, until

MODELS = {"a": {"model": "org/a", "gpu_memory_utilization": 0.3, "devices": [0]}}


def told(state: DeviceState) -> dict[str, dict[str, float]]:
    """Each metric's values by device or directory."""
    return {f.name: {next(iter(s.labels.values())): s.value for s in f.samples} for f in state.collect() if f.samples}


async def test_devices_tell_what_they_can_and_nothing_else() -> None:
    probe = FakeProbe(count=3)
    probe.uses = {0: 10 << 30, 1: 20 << 30, 2: 0}
    probe.tells = {0: Telemetry(0.5, 0.25, 300.0, 700.0, 61.0), 1: Telemetry(power_watts=50.0)}
    probe.silent = {2}  # fell off the bus
    async with running_daemon(MODELS, probe=probe) as daemon:
        page = await scrape(daemon.url)
        assert page.values("arena_device_memory_bytes", "device") == dict.fromkeys("012", TOTAL_BYTES)
        assert page.values("arena_device_memory_used_bytes", "device") == {"0": 10 << 30, "1": 20 << 30}
        assert page.values("arena_device_utilization_ratio", "device") == {"0": 0.5}
        assert page.values("arena_device_memory_utilization_ratio", "device") == {"0": 0.25}
        assert page.values("arena_device_power_watts", "device") == {"0": 300, "1": 50}
        assert page.values("arena_device_power_limit_watts", "device") == {"0": 700}
        assert page.values("arena_device_temperature_celsius", "device") == {"0": 61}
        assert page.value("arena_device_info", device="1", name="Fake GPU") == 1
        assert page.values("arena_device_blocked", "device") == dict.fromkeys("012", 0)
        assert page.value("arena_model_reserved_bytes", model="a", device="0") == 0


async def test_devices_are_asked_once_a_second_at_most() -> None:
    clock, probe = Hands(), FakeProbe()
    state = DeviceState(probe, clock, {})
    for _ in range(5):
        await state.refresh()
    assert probe.reads == 1
    clock.time += 1.0
    await state.refresh()
    assert probe.reads == 2


async def test_a_driver_that_hangs_delays_a_scrape_and_is_not_asked_by_a_second_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_state, "LIMIT_S", 0.05)
    clock, probe, answers = Hands(), FakeProbe(), threading.Event()
    probe.used = 5
    used_bytes: Callable[[int], int] = probe.used_bytes

    def hang(index: int) -> int:
        assert answers.wait(30)
        return used_bytes(index)

    monkeypatch.setattr(probe, "used_bytes", hang)
    state = DeviceState(probe, clock, {})
    for _ in range(3):
        clock.time += 10
        await state.refresh()
        assert "arena_device_memory_used_bytes" not in told(state)
    answers.set()
    await until(lambda: "arena_device_memory_used_bytes" in told(state), "the answer")
    assert told(state)["arena_device_memory_used_bytes"] == {"0": 5}
    assert probe.reads == 1


class SlowProbe(FakeProbe):
    """One whose answers come when the test says so; the number of each is what is in use."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Semaphore(0)

    def used_bytes(self, index: int) -> int:
        """See `MemoryProbe`."""
        self.reads += 1
        number = self.reads
        assert self.answers.acquire(timeout=LIMIT_S)
        return number


async def test_a_driver_that_is_always_slow_is_one_scrape_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_state, "LIMIT_S", 0.01)
    clock, probe = Hands(), SlowProbe()
    state = DeviceState(probe, clock, {})
    await state.refresh()
    for number in range(1, 5):
        probe.answers.release()  # after the scrape that asked had given up
        await until(lambda: told(state).get("arena_device_memory_used_bytes") == {"0": number}, "the answer")  # noqa: B023
        clock.time += 60
        await state.refresh()
        assert told(state)["arena_device_memory_used_bytes"] == {"0": number}, "of the scrape before"
        assert probe.reads == number + 1
    clock.time += 60.5
    await state.refresh()
    assert "arena_device_memory_used_bytes" not in told(state), "too old"
    probe.answers.release()
    await until(lambda: "arena_device_memory_used_bytes" in told(state), "the answer")


async def test_a_fault_that_nobody_thought_of_fails_no_scrape_and_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    probe, clock = FakeProbe(), Hands()
    async with running_daemon(MODELS, probe=probe, clock=clock) as daemon:
        assert (await scrape(daemon.url)).value("arena_device_memory_used_bytes", device="0") == 0
        probe.error = ValueError("a driver's oddity")
        for _ in range(3):
            clock.time += 10
            assert (await scrape(daemon.url)).value("arena_device_memory_used_bytes", device="0") is None
        said = [r for r in caplog.records if r.name == device_state.__name__]
        assert [str(r.exc_info[1]) for r in said if r.exc_info] == ["a driver's oddity"], "once in a while"
        probe.error = None
        clock.time += 10
        assert (await scrape(daemon.url)).value("arena_device_memory_used_bytes", device="0") == 0


HANGS = """
import asyncio, threading
from arena_server.clock import SystemClock
from arena_server.metrics import device_state
from tests.support.fake_probe import FakeProbe

class Probe(FakeProbe):
    def telemetry(self, index):
        threading.Event().wait()

device_state.LIMIT_S = 0.01
asyncio.run(device_state.DeviceState(Probe(), SystemClock(), {}).refresh())
"""


def test_a_driver_that_hangs_does_not_hold_up_the_daemons_end() -> None:
    """Neither the event loop's nor the interpreter's: both wait for an executor's threads."""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", HANGS], check=True, timeout=LIMIT_S, cwd=root)


async def test_an_answer_that_comes_after_the_loops_end_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_state, "LIMIT_S", 0.0)
    probe = SlowProbe()
    before = set(threading.enumerate())

    def live() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(DeviceState(probe, Hands(), {}).refresh())
        loop.close()

    await asyncio.to_thread(live)
    probe.answers.release()
    for thread in set(threading.enumerate()) - before:
        if thread.name == "devices":
            await asyncio.to_thread(thread.join, LIMIT_S)
            assert not thread.is_alive()


async def test_what_is_not_known_any_more_is_not_shown_as_it_was() -> None:
    clock, probe = Hands(), FakeProbe()
    state = DeviceState(probe, clock, {})
    await state.refresh()
    assert told(state)["arena_device_memory_used_bytes"] == {"0": 0}
    clock.time += 10
    probe.error = ProbeError("GPU is lost")
    await state.refresh()
    assert "arena_device_memory_used_bytes" not in told(state)


async def test_disks_of_directories_that_are_not_there_yet(tmp_path: Path) -> None:
    state = DeviceState(FakeProbe(), Hands(), {"state": tmp_path, "huggingface": tmp_path / "not" / "yet"})
    await state.refresh()
    assert told(state)["arena_disk_bytes"] == dict.fromkeys(["state", "huggingface"], shutil.disk_usage(tmp_path).total)
    assert 0 < told(state)["arena_disk_free_bytes"]["state"] <= shutil.disk_usage(tmp_path).total
