"""What the daemon's `/admin` routes say, as far as the console shows it. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The queue's bounds."""

    max_queue: int
    max_wait_s: float


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """What a model has of one device now."""

    index: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What a model has of all of them."""

    devices: tuple[DeviceShare, ...]


@dataclass(frozen=True, slots=True)
class Times:
    """What it last took."""

    load_s: float | None
    wake_s: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load or a wake is; `fraction` is of the phase."""

    phase: str
    fraction: float | None


@dataclass(frozen=True, slots=True)
class Model:
    """One configured model."""

    name: str
    aliases: tuple[str, ...]
    residency: str
    since_s: float
    pinned: bool
    draining: str | None
    running: int
    waiting: int
    requests_total: int
    sleep_level: int
    memory: ModelMemory
    times: Times
    loading: Progress | None
    eta_s: float | None
    failures: int
    error: str | None
    retry_in_s: float | None
    remote: bool | None = None  # whether another server runs it; None from a daemon that knows of no such models


@dataclass(frozen=True, slots=True)
class Outside:
    """A process that is none of the daemon's and holds memory of a device."""

    pid: int
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has `bytes` of a device by the driver's word, and what the ledger has there for its model.

    Without a model it is none of the daemon's.
    """

    pid: int
    name: str
    model: str | None
    bytes: int
    ledger_bytes: int | None


@dataclass(frozen=True, slots=True)
class Device:
    """One device. `blocked`: why nothing can be loaded there; `processes_unknown`: why it has no processes."""

    index: int
    name: str
    total_bytes: int
    budget_bytes: int
    reserved_bytes: int
    used_bytes: int | None
    outside_bytes: int
    outside: tuple[Outside, ...]
    processes: tuple[Process, ...] | None
    processes_unknown: str | None
    blocked: str | None


@dataclass(frozen=True, slots=True)
class Host:
    """The host's RAM, where sleepers of level 1 keep their weights."""

    total_bytes: int
    used_bytes: int
    sleep_budget_bytes: int
    sleep_reserved_bytes: int


@dataclass(frozen=True, slots=True)
class Waiter:
    """One request in the queue."""

    models: tuple[str, ...]
    waited_s: float
    place: int
    phase: str
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """The whole pool at one moment: `GET /admin/pool`."""

    version: str
    uptime_s: float
    status: str
    limits: Limits
    models: tuple[Model, ...]
    devices: tuple[Device, ...]
    host: Host
    queue: tuple[Waiter, ...]
    swaps_total: int

    def measured_bytes(self, model: str) -> int | None:
        """What the driver sees of the model on all devices together; None where it does not say for each of them."""
        found = [device.processes for device in self.devices]
        listed = [processes for processes in found if processes is not None]
        if not listed or len(listed) < len(found):
            return None
        return sum(p.bytes for processes in listed for p in processes if p.model == model)

    def model(self, name: str) -> Model | None:
        """The model of that name, if it is configured."""
        return next((m for m in self.models if m.name == name), None)


@dataclass(frozen=True, slots=True)
class Decision:
    """Something the pool decided. `at` is ISO 8601."""

    at: str
    what: str
    model: str | None
    why: str
    cost_s: float | None


@dataclass(frozen=True, slots=True)
class Decisions:
    """The last ones, oldest first: `GET /admin/decisions`."""

    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Transition:
    """A model's move from one residency to another."""

    at: str
    model: str
    was: str
    to: str
    why: str


@dataclass(frozen=True, slots=True)
class QueueChange:
    """The queue after it changed."""

    at: str
    queue: tuple[Waiter, ...]


@dataclass(frozen=True, slots=True)
class Acted:
    """The answer to an action on a model."""

    model: Model


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of reading the configuration again: names of models, and keys that wait for a restart."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    needs_restart: tuple[str, ...]
