"""What is in use on one device at one moment, by whom, and how that differs from another moment."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """Bytes in use, and by process id; `processes` is None where the driver does not say."""

    used_bytes: int
    processes: Mapping[int, int] | None

    def listed(self, pids: Set[int]) -> int:
        """Bytes of those of the processes that are listed.

        0 means that nothing is known of them: a process that has opened the device holds some of it, but in
        containers the driver may list it under another id, or with no bytes.
        """
        return sum(bytes_ for pid, bytes_ in (self.processes or {}).items() if pid in pids)

    def rise_since(self, before: DeviceUse, others: Set[int]) -> int:
        """Bytes in use now and not before (negative: fewer), not counting what `others` took or gave back.

        0 or less where only the others grew, so that their memory is not mistaken for an engine's.
        """
        rise = self.used_bytes - before.used_bytes
        if self.processes is None or before.processes is None:
            return rise
        return rise - (self.listed(others) - before.listed(others))
