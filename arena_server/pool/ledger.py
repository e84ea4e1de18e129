"""What is reserved where: bytes per device, and places among the awake. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Footprint = Mapping[int, int]  # device index -> bytes


class OverBudget(Exception):
    """A reservation that does not fit: a defect in the pool, never a user's fault."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be reserved: bytes on each device, and how many models may hold memory at once (None: any)."""

    device_bytes: Mapping[int, int]
    max_awake: int | None = None


@dataclass(slots=True)
class Shortage:
    """What lacks before some models fit: bytes by device (positive ones only), and places among the awake."""

    device_bytes: dict[int, int]
    places: int

    def __bool__(self) -> bool:
        return bool(self.device_bytes) or self.places > 0

    def helped_by(self, footprint: Footprint) -> bool:
        """Whether the leaving of a model with this footprint would help at all."""
        return self.places > 0 or any(d in self.device_bytes for d in footprint)


@dataclass(slots=True)
class Ledger:
    """The reservations in force, by model name. A copy is a plan that costs nothing."""

    budget: Budget
    held: dict[str, Footprint] = field(default_factory=dict)

    def copy(self, without: Iterable[str] = ()) -> Ledger:
        """The same reservations, less those of the named models."""
        gone = frozenset(without)
        return Ledger(self.budget, {name: f for name, f in self.held.items() if name not in gone})

    def reserved(self, device: int) -> int:
        """Bytes reserved on the device."""
        return sum(f.get(device, 0) for f in self.held.values())

    def shortage(self, footprints: Iterable[Footprint]) -> Shortage:
        """What lacks before all these, none of them held yet, fit beside what is held."""
        wanted = list(footprints)
        lacking = {}
        for device in {d for f in wanted for d in f}:
            need = self.reserved(device) + sum(f.get(device, 0) for f in wanted)
            if (over := need - self.budget.device_bytes[device]) > 0:
                lacking[device] = over
        places = 0
        if self.budget.max_awake is not None:
            places = max(0, len(self.held) + len(wanted) - self.budget.max_awake)
        return Shortage(lacking, places)

    def reserve(self, name: str, footprint: Footprint) -> None:
        """Hold memory for a model. Raises OverBudget if it does not fit or is held already."""
        if name in self.held or self.shortage([footprint]):
            raise OverBudget(f"{name}: {dict(footprint)} beside {self.held} within {self.budget}")
        self.held[name] = footprint

    def release(self, name: str) -> None:
        """Give a model's reservation back."""
        del self.held[name]
