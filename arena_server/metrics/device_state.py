"""The devices as they say they are (NVML; host RAM has a size and what is in use), and room on the disks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from arena_server.clock import Clock
from arena_server.gpu.probe import MemoryProbe, ProbeError, Telemetry

logger = logging.getLogger(__name__)

# Some of NVML's questions take milliseconds, and it keeps its own figures for up to a second.
FRESH_S = 1.0
# A scrape waits so long for new ones.
LIMIT_S = 1.0
# Old ones are shown for so long: a driver that always takes over LIMIT_S is one scrape behind (Prometheus' own default
# is one a minute), and its gauges do not come and go.
KEPT_S = 120.0
# A fault is logged at most so often.
SAID_AGAIN_S = 600.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What one device told."""

    used_bytes: int | None
    telemetry: Telemetry


@dataclass(frozen=True, slots=True)
class Readings:
    """What all of them told: devices by index, free and total bytes of the disks by what they are for."""

    devices: Mapping[int, Reading] = field(default_factory=dict)
    disks: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class DeviceState(Collector):
    """Asks them in a thread, at most once a second, however many scrape. One that does not answer is left out."""

    def __init__(self, probe: MemoryProbe, clock: Clock, disks: Mapping[str, Path]) -> None:
        """`disks` are directories that fill, by what they are for."""
        self._probe = probe
        self._disks = disks
        self._clock = clock
        self._asking: asyncio.Future[None] | None = None
        self._asked_at = float("-inf")
        self._readings = Readings()
        self._read_at = float("-inf")
        self._said_at = float("-inf")

    async def refresh(self) -> None:
        """Have readings that are fresh; those of KEPT_S ago at most, if a driver is slow or hangs."""
        if self._asking is None and self._clock.now() - self._asked_at >= FRESH_S:
            self._asked_at = self._clock.now()
            self._asking = self._begin()
        if self._asking is not None:
            # A thread cannot be called off: the next scrape waits for it, too.
            await asyncio.wait([self._asking], timeout=LIMIT_S)
        if self._clock.now() - self._read_at > KEPT_S:
            self._readings = Readings()

    def _begin(self) -> asyncio.Future[None]:
        """Ask in a thread; done once the answer is taken.

        A thread of its own, and a daemon's: asyncio and the interpreter wait for those of an executor at their end,
        and a driver that hangs would have systemd kill the daemon.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def ask() -> None:
            readings, fault = Readings(), None
            try:
                readings = self._ask()
            except Exception as e:  # whatever it is, it must not fail every scrape from now on
                fault = e
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._take, done, readings, fault)

        threading.Thread(target=ask, name="devices", daemon=True).start()
        return done

    def _take(self, done: asyncio.Future[None], readings: Readings, fault: Exception | None) -> None:
        self._asking = None
        self._readings, self._read_at = readings, self._clock.now()
        if fault is not None and self._read_at - self._said_at >= SAID_AGAIN_S:
            self._said_at = self._read_at
            logger.error("Asking the devices how they are", exc_info=fault)
        done.set_result(None)

    def describe(self) -> Iterable[Metric]:
        """None: nothing is asked before the first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What the last `refresh` found."""
        info = GaugeMetricFamily("arena_device_info", "The devices (1), by their names.", labels=["device", "name"])
        size = GaugeMetricFamily("arena_device_memory_bytes", "The device's memory, all of it.", labels=["device"])
        for device in self._probe.devices:
            info.add_metric([str(device.index), device.name], 1)
            size.add_metric([str(device.index)], device.total_bytes)
        yield info
        yield size
        yield self._each(
            "arena_device_memory_used_bytes", "In use, by whomever.", lambda r: r.used_bytes
        )  # fmt: skip
        yield self._each(
            "arena_device_utilization_ratio", "Part of the time in which a kernel ran, as NVML says.",
            lambda r: r.telemetry.utilization,
        )  # fmt: skip
        yield self._each(
            "arena_device_memory_utilization_ratio", "Part of the time in which memory was read or written, likewise.",
            lambda r: r.telemetry.memory_utilization,
        )  # fmt: skip
        yield self._each("arena_device_power_watts", "Power drawn.", lambda r: r.telemetry.power_watts)
        yield self._each(
            "arena_device_power_limit_watts", "Most power it may draw.", lambda r: r.telemetry.power_limit_watts
        )
        yield self._each("arena_device_temperature_celsius", "The GPU's.", lambda r: r.telemetry.temperature_celsius)
        yield self._disk("arena_disk_free_bytes", "Free on the disk of the directory (state, huggingface).", 0)
        yield self._disk("arena_disk_bytes", "All of that disk.", 1)

    def _each(self, name: str, text: str, value: Callable[[Reading], float | None]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["device"])
        for index, reading in self._readings.devices.items():
            if (told := value(reading)) is not None:
                family.add_metric([str(index)], told)
        return family

    def _disk(self, name: str, text: str, place: int) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["directory"])
        for directory, sizes in self._readings.disks.items():
            family.add_metric([directory], sizes[place])
        return family

    def _ask(self) -> Readings:
        indices = [d.index for d in self._probe.devices]
        devices = {i: Reading(self._used(i), self._probe.telemetry(i)) for i in indices}
        sizes = {name: _disk_bytes(path) for name, path in self._disks.items()}
        return Readings(devices, {name: size for name, size in sizes.items() if size is not None})

    def _used(self, index: int) -> int | None:
        try:
            return self._probe.used_bytes(index)
        except ProbeError:
            return None


def _disk_bytes(path: Path) -> tuple[int, int] | None:
    """Free and total bytes of the disk on which the directory is, or will be."""
    for place in (path, *path.parents):
        try:
            usage = shutil.disk_usage(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return usage.free, usage.total
    return None
