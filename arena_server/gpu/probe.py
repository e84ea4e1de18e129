"""Device memory as the machine reports it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import psutil

from arena_server.devices import DeviceInfo


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


class HostProbe:
    """Host RAM as device 0, where there is no GPU."""

    gpu = False

    def __init__(self) -> None:
        self.devices = (DeviceInfo(index=0, name="host RAM", total_bytes=psutil.virtual_memory().total),)

    def used_bytes(self, index: int) -> int:
        """See `MemoryProbe`: total less what could be had without swapping."""
        memory = psutil.virtual_memory()
        return int(memory.total - memory.available)


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
