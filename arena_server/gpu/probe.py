"""Device memory as the machine reports it."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from arena_server.devices import DeviceInfo
from arena_server.errors import ArenaError

logger = logging.getLogger(__name__)

# NVML_VALUE_NOT_AVAILABLE, as an unsigned number of bytes.
NOT_AVAILABLE = (1 << 64) - 1
DRIVER = Path("/proc/driver/nvidia/version")
WHAT_TO_DO = (
    "See what nvidia-smi says; after an upgrade of the driver, reboot. To do without GPUs: CUDA_VISIBLE_DEVICES='' "
    "in the environment."
)


class DriverFailed(ArenaError):
    """There is a driver, but it does not answer."""

    status = 503
    kind = "service_unavailable_error"
    code = "driver_failed"


class ProbeError(Exception):
    """A device cannot be asked (it fell off the bus, say); the text is the driver's reason."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """How a device is, at one moment; None for what it does not tell (under MIG, say, or host RAM).

    `utilization` is the part of the last moments (0 to 1) in which a kernel ran, `memory_utilization` that in which its
    memory was read or written.
    """

    utilization: float | None = None
    memory_utilization: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature_celsius: float | None = None


class MemoryProbe(Protocol):
    """Reads device memory, and how the devices are."""

    @property
    def gpu(self) -> bool:
        """Whether the devices are GPUs; False for host RAM."""
        ...

    @property
    def devices(self) -> Sequence[DeviceInfo]:
        """The devices, which do not change while the daemon runs."""
        ...

    def used_bytes(self, index: int) -> int:
        """Bytes in use on the device now, by whomever. Raises ProbeError."""
        ...

    def processes(self, index: int) -> Mapping[int, int] | None:
        """Bytes in use on the device by process id, or None where that is not to be had. Raises ProbeError.

        An empty or incomplete mapping proves nothing: in a container the driver may list no process, only the
        container's own, or all of them by the host's process ids.
        """
        ...

    def telemetry(self, index: int) -> Telemetry:
        """How the device is now, as far as it tells. May be asked from any thread."""
        ...


class HostProbe:
    """Host RAM as device 0, where there is no GPU."""

    gpu = False

    def __init__(self) -> None:
        self.devices = (DeviceInfo(index=0, name="host RAM", total_bytes=psutil.virtual_memory().total),)

    def used_bytes(self, index: int) -> int:
        """See `MemoryProbe`: total less what could be had without swapping."""
        memory = psutil.virtual_memory()
        return int(memory.total - memory.available)

    def processes(self, index: int) -> None:
        """See `MemoryProbe`: host RAM is shared between processes, so no one of them has a part of its own."""
        return None

    def telemetry(self, index: int) -> Telemetry:
        """See `MemoryProbe`: memory has no such figures."""
        return Telemetry()


class NvmlProbe:
    """NVIDIA GPUs, by NVML's indices (those `nvidia-smi` shows)."""

    gpu = True

    def __init__(self, nvml: Any, visible: str | None) -> None:
        """`nvml` is the initialised pynvml module; `visible` is CUDA_VISIBLE_DEVICES, which hides the others."""
        self._nvml = nvml
        self._handles = {}
        infos = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            if _is_visible(index, nvml.nvmlDeviceGetUUID(handle), visible):
                self._handles[index] = handle
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                infos.append(DeviceInfo(index=index, name=nvml.nvmlDeviceGetName(handle), total_bytes=memory.total))
        self.devices = tuple(infos)

    def used_bytes(self, index: int) -> int:
        """See `MemoryProbe`."""
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handles[index]).used)
        except self._nvml.NVMLError as e:
            raise ProbeError(str(e)) from e

    def processes(self, index: int) -> Mapping[int, int] | None:
        """See `MemoryProbe`."""
        compute = self._listed(self._nvml.nvmlDeviceGetComputeRunningProcesses, index)
        if compute is None:
            return None
        graphics = self._listed(self._nvml.nvmlDeviceGetGraphicsRunningProcesses, index) or {}
        # A process that does both is in both lists, each time with all it has.
        return {pid: max(compute.get(pid, 0), graphics.get(pid, 0)) for pid in compute.keys() | graphics.keys()}

    def telemetry(self, index: int) -> Telemetry:
        """See `MemoryProbe`."""
        nvml, handle = self._nvml, self._handles[index]
        rates = self._told(nvml.nvmlDeviceGetUtilizationRates, handle)
        power = self._told(nvml.nvmlDeviceGetPowerUsage, handle)
        limit = self._told(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        temperature = self._told(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        # NVML tells percents and milliwatts.
        return Telemetry(
            utilization=None if rates is None else rates.gpu / 100,
            memory_utilization=None if rates is None else rates.memory / 100,
            power_watts=None if power is None else power / 1000,
            power_limit_watts=None if limit is None else limit / 1000,
            temperature_celsius=None if temperature is None else float(temperature),
        )

    def _told(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """The answer; None for a question that the card, its mode or the driver does not answer."""
        try:
            return ask(*arguments)
        except self._nvml.NVMLError:
            return None

    def _listed(self, ask: Callable[[Any], Sequence[Any]], index: int) -> Mapping[int, int] | None:
        """One list of processes; None if it, or the bytes of any process in it, is not given. Raises ProbeError."""
        try:
            listed = ask(self._handles[index])
        except self._nvml.NVMLLibraryMismatchError:
            return None  # a driver older than R510; pynvml does not count this among its NVMLErrors
        except self._nvml.NVMLError as e:
            if e.value in (self._nvml.NVML_ERROR_NOT_SUPPORTED, self._nvml.NVML_ERROR_NO_PERMISSION):
                return None
            raise ProbeError(str(e)) from e
        found: Counter[int] = Counter()
        for process in listed:
            if process.usedGpuMemory is None or process.usedGpuMemory == NOT_AVAILABLE:
                return None  # under MIG, WSL and vGPU
            found[process.pid] += process.usedGpuMemory  # more than once: it has several instances of the device
        return found


def _is_visible(index: int, uuid: str, visible: str | None) -> bool:
    if visible is None:
        return True
    # CUDA accepts indices and (beginnings of) UUIDs, separated by commas.
    return any(v == str(index) or (v.startswith("GPU-") and uuid.startswith(v)) for v in visible.split(","))


def open_probe(nvml: Any | None = None, driver: Path = DRIVER) -> MemoryProbe:
    """NVML's view if there is a driver and at least one visible GPU, host RAM otherwise. Raises DriverFailed.

    `nvml` is pynvml; `driver` is there while the driver's module is loaded.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return HostProbe()
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
        probe = NvmlProbe(nvml, visible)
    except nvml.NVMLError as e:
        # Models meant for a GPU would be given room in host RAM, and all would look well, until somebody wonders.
        if driver.exists() or e.value not in (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED):
            raise DriverFailed(f"NVIDIA's driver is there, but cannot be asked: {e}. {WHAT_TO_DO}") from e
        if e.value == nvml.NVML_ERROR_DRIVER_NOT_LOADED:
            logger.warning("NVIDIA's driver is installed, but not loaded: there is no GPU, models go to host RAM")
        return HostProbe()
    return probe if probe.devices else HostProbe()
