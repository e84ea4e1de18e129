"""What is reserved where: bytes per device, bytes of host RAM, and places among the awake. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Footprint = Mapping[int, int]  # device index -> bytes


class OverBudget(Exception):
    """A reservation that does not fit: a defect in the pool, never a user's fault."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one model holds: bytes on its devices, bytes of host RAM, and perhaps a place among the awake."""

    device_bytes: Footprint
    host_bytes: int = 0
    place: bool = True


NOTHING = Holding({}, 0, False)


def holding_awake(footprint: Footprint, host_bytes: int = 0) -> Holding:
    """What a model holds awake that has this on its devices: a place as well, unless another server runs it."""
    return Holding(footprint, host_bytes, place=bool(footprint))


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be reserved: bytes on each device and of host RAM, and how many awake at once (None: any)."""

    device_bytes: Mapping[int, int]
    max_awake: int | None = None
    host_bytes: int | None = None


@dataclass(slots=True)
class Shortage:
    """What lacks before some models fit: bytes by device (positive ones only), of host RAM, and places."""

    device_bytes: dict[int, int]
    host_bytes: int = 0
    places: int = 0

    def __bool__(self) -> bool:
        return bool(self.device_bytes) or self.host_bytes > 0 or self.places > 0

    def helped_by(self, holding: Holding) -> bool:
        """Whether it would help at all if this were given back."""
        return (
            (self.places > 0 and holding.place)
            or (self.host_bytes > 0 and holding.host_bytes > 0)
            or any(holding.device_bytes.get(device, 0) > 0 for device in self.device_bytes)
        )


@dataclass(slots=True)
class Ledger:
    """The reservations in force, by model name. A copy is a plan that costs nothing.

    `outside` is what others than the pool's engines hold of the budgets, in bytes by device.
    """

    budget: Budget
    held: dict[str, Holding] = field(default_factory=dict)
    outside: Footprint = field(default_factory=dict)

    def copy(self, without: Iterable[str] = ()) -> Ledger:
        """The same reservations, less those of the named models."""
        gone = frozenset(without)
        return Ledger(self.budget, {name: h for name, h in self.held.items() if name not in gone}, self.outside)

    def reserved(self, device: int) -> int:
        """Bytes reserved on the device."""
        return sum(h.device_bytes.get(device, 0) for h in self.held.values())

    @property
    def host_reserved(self) -> int:
        """Bytes of host RAM reserved."""
        return sum(h.host_bytes for h in self.held.values())

    def shortage(self, wanted: Mapping[str, Holding]) -> Shortage:
        """What lacks before these hold what they want, instead of what they hold now, beside all others.

        Only where one of them wants more than it holds: what is held already may stay, even if others (see
        `outside`) have taken so much meanwhile that it is too much in all.
        """
        after = {**self.held, **wanted}
        growth = [(self.held.get(name, NOTHING), want) for name, want in wanted.items()]
        lacking = {}
        for device in {d for _, want in growth for d in want.device_bytes}:
            if all(want.device_bytes.get(device, 0) <= has.device_bytes.get(device, 0) for has, want in growth):
                continue
            need = sum(h.device_bytes.get(device, 0) for h in after.values()) + self.outside.get(device, 0)
            if (over := need - self.budget.device_bytes[device]) > 0:
                lacking[device] = over
        host = places = 0
        if self.budget.host_bytes is not None and any(want.host_bytes > has.host_bytes for has, want in growth):
            host = max(0, sum(h.host_bytes for h in after.values()) - self.budget.host_bytes)
        if self.budget.max_awake is not None and any(want.place and not has.place for has, want in growth):
            places = max(0, sum(h.place for h in after.values()) - self.budget.max_awake)
        return Shortage(lacking, host, places)

    def reserve(self, name: str, holding: Holding) -> None:
        """Let a model hold this instead of what it holds now. Raises OverBudget if it does not fit."""
        if self.shortage({name: holding}):
            raise OverBudget(f"{name}: {holding} beside {self.held} and {dict(self.outside)} within {self.budget}")
        self.held[name] = holding

    def release(self, name: str) -> None:
        """Give a model's reservation back."""
        del self.held[name]
