"""Device memory that exists in numbers only: who has how much of it, and whether that was ever too much."""

from __future__ import annotations

from collections.abc import Mapping


class OverCommit(Exception):
    """More was taken of a device than it has."""


class SimulatedMemory:
    """The memory of some devices, shared by the fake engines of one test. Every over-commit is kept in `faults`."""

    def __init__(self, totals: Mapping[int, int]) -> None:
        """`totals` are the devices' bytes by index."""
        self.totals = dict(totals)
        self.faults: list[str] = []
        self._taken: dict[int, dict[str, int]] = {index: {} for index in totals}

    def take(self, name: str, index: int, size: int) -> None:
        """Let `name` have `size` bytes of the device, whatever it had. Raises OverCommit, and changes nothing then."""
        used = self.used_bytes(index) - self.taken(name, index) + size
        if used > self.totals[index]:
            fault = f"{name}: {size} bytes on device {index} would make {used} of {self.totals[index]}"
            self.faults.append(fault)
            raise OverCommit(fault)
        self._taken[index][name] = size

    def free(self, name: str) -> None:
        """Take back all that `name` has, on every device."""
        for taken in self._taken.values():
            taken.pop(name, None)

    def taken(self, name: str, index: int) -> int:
        """What `name` has of the device, in bytes."""
        return self._taken[index].get(name, 0)

    def used_bytes(self, index: int) -> int:
        """What is taken of the device, in bytes."""
        return sum(self._taken[index].values())
