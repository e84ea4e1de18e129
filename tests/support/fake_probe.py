"""Devices whose bytes in use are what the test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from arena_server.devices import DeviceInfo
from arena_server.gpu.probe import ProbeError, Telemetry

TOTAL_BYTES = 100 << 30


class FakeProbe:
    """GPUs (or, with `gpu=False`, host RAM) as a `MemoryProbe`.

    `used` is what is in use on device 0, `uses` on each; `lists` are the processes by device, None where the driver
    does not say. While `error` is set, every question gets it; while `list_error` is, those for processes do; devices
    that are `silent` answer none. `tells` is how each of them is.
    """

    def __init__(self, count: int = 1, total_bytes: int = TOTAL_BYTES, gpu: bool = True) -> None:
        self.gpu = gpu
        self.devices: Sequence[DeviceInfo] = tuple(
            DeviceInfo(index=i, name="Fake GPU", total_bytes=total_bytes) for i in range(count)
        )
        self.uses = dict.fromkeys(range(count), 0)
        self.lists: dict[int, dict[int, int] | None] = dict.fromkeys(range(count))
        self.reads = 0
        self.error: Exception | None = None
        self.list_error: Exception | None = None
        self.silent: set[int] = set()
        self.tells: dict[int, Telemetry] = {}

    @property
    def used(self) -> int:
        """Bytes in use on device 0."""
        return self.uses[0]

    @used.setter
    def used(self, used_bytes: int) -> None:
        self.uses[0] = used_bytes

    def start(self, pid: int, bytes_: int, device: int = 0) -> None:
        """A process takes so many bytes more, and is listed from now on."""
        listed = self.lists[device] or {}
        self.lists[device] = {**listed, pid: listed.get(pid, 0) + bytes_}
        self.uses[device] += bytes_

    def end(self, pid: int, device: int = 0, back: bool = True) -> None:
        """A process is gone from the list; what it had is back, or `back` is False."""
        listed = dict(self.lists[device] or {})
        bytes_ = listed.pop(pid, 0)
        self.lists[device] = listed
        self.uses[device] -= bytes_ if back else 0

    def used_bytes(self, index: int) -> int:
        """See `MemoryProbe`."""
        self.reads += 1
        self._fail(index)
        return self.uses[index]

    def processes(self, index: int) -> Mapping[int, int] | None:
        """See `MemoryProbe`."""
        self._fail(index)
        if self.list_error is not None:
            raise self.list_error
        return self.lists[index]

    def telemetry(self, index: int) -> Telemetry:
        """See `MemoryProbe`."""
        return self.tells.get(index, Telemetry())

    def _fail(self, index: int) -> None:
        if self.error is not None:
            raise self.error
        if index in self.silent:
            raise ProbeError("silent")
