"""Device memory as the machine reports it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import psutil

from arena_server.devices import DeviceInfo

# NVML_VALUE_NOT_AVAILABLE, as an unsigned number of bytes.
NOT_AVAILABLE = (1 << 64) - 1


class ProbeError(Exception):
    """A device cannot be asked (it fell off the bus, say); the text is the driver's reason."""


class MemoryProbe(Protocol):
    """Reads device memory."""

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


def open_probe() -> MemoryProbe:
    """NVML's view if there is a driver and at least one visible GPU, host RAM otherwise."""
    import pynvml

    try:
        pynvml.nvmlInit()
        probe = NvmlProbe(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES"))
    except pynvml.NVMLError:
        return HostProbe()
    return probe if probe.devices else HostProbe()
