"""What the core is told, and what it orders. Plain values; times are in seconds of the caller's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from arena_server.pool.ledger import Budget, Footprint
from arena_server.pool.residency import Residency


@dataclass(frozen=True, slots=True)
class Times:
    """What each transition of a model took when it was last measured, in seconds; None: never yet."""

    load_s: float | None = None
    wake_s: float | None = None
    sleep_s: float | None = None
    stop_s: float | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the core must know of a model.

    `footprint` is what it holds awake, on each of its devices; if there are none, another server runs it, and it takes
    neither memory nor a place among the awake. `asleep` is what stays on the devices while it sleeps, and `host_bytes`
    what sleeping takes of the host's RAM until it is stopped (both are replaced by what is measured). `sleep_level` is
    vLLM's; 0: it is stopped instead.
    """

    name: str
    footprint: Footprint
    pinned: bool = False
    idle_ttl_s: float | None = None
    sleep_level: int = 0
    asleep: Footprint = field(default_factory=dict)
    host_bytes: int = 0
    times: Times = Times()


@dataclass(frozen=True, slots=True)
class Limits:
    """How many may wait, how long, and how long the evictor waits for a busy model (None: as long as a swap costs)."""

    max_queue: int = 1000
    max_wait_s: float = 600.0
    patience_s: float | None = None


class Away(StrEnum):
    """How a model leaves."""

    ASLEEP = "asleep"
    STOPPED = "stopped"


# Events: what happened.


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody wants all these models awake together, under the (new) ticket. The queue is shared between askers."""

    ticket: int
    models: frozenset[str]
    asker: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """The ticket is no longer needed: granted and done with, or given up while it waited.

    Of a granted one, `models` may be done with before the others (None: all of them).
    """

    ticket: int
    models: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A load ended well. `host_bytes`: what sleeping would take of the host's RAM, now that the weights are known."""

    model: str
    host_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A load ended badly; the engine's remains are still to be stopped."""

    model: str
    reason: str
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Slept:
    """A model is asleep; what was measured of it since (None: nothing was)."""

    model: str
    asleep: Footprint | None = None
    host_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SleepFailed:
    """An engine could not be put to sleep; its remains are still to be stopped."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Woken:
    """A wake ended well."""

    model: str


@dataclass(frozen=True, slots=True)
class WakeFailed:
    """A wake ended badly, or the engine answers otherwise than before; its remains are still to be stopped."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Crashed:
    """An engine ended by itself, awake, asleep or between; its remains are still to be stopped."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A stop is complete."""

    model: str


@dataclass(frozen=True, slots=True)
class Outside:
    """What others than our engines hold of the budgets now, in bytes by device."""

    device_bytes: Footprint


@dataclass(frozen=True, slots=True)
class PutAway:
    """An operator wants the model to leave; running requests finish first."""

    model: str
    how: Away


@dataclass(frozen=True, slots=True)
class Pin:
    """An operator pins or unpins the model."""

    model: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """An operator wants the model's failures forgotten."""

    model: str


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """The configuration is another one now. `changed` names the models that need a new engine."""

    specs: Sequence[ModelSpec]
    changed: frozenset[str]
    budget: Budget
    limits: Limits


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Close:
    """The daemon is stopping: nobody new, nothing new."""


Event = (
    Request
    | Release
    | Loaded
    | LoadFailed
    | Slept
    | SleepFailed
    | Woken
    | WakeFailed
    | Crashed
    | Stopped
    | Outside
    | PutAway
    | Pin
    | Reset
    | Reconfigure
    | Tick
    | Close
)


# Effects: what is to be done. Of a transition: why, for people, and the seconds it is expected to take.


@dataclass(frozen=True, slots=True)
class Load:
    """Start the model's engine; report Loaded or LoadFailed."""

    model: str
    why: str = ""
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sleep:
    """Put the model's engine to sleep; report Slept or SleepFailed."""

    model: str
    why: str = ""
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake the model's engine; report Woken or WakeFailed."""

    model: str
    why: str = ""
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    """End the model's engine, calling off whatever is under way with it; report Stopped."""

    model: str
    why: str = ""
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """The ticket's models are awake, and stay so until its Release."""

    ticket: int


class Refusal(StrEnum):
    """Why a ticket is refused."""

    QUEUE_FULL = "queue full"
    WAIT_LIMIT = "wait limit"
    NEVER_FITS = "never fits"
    UNAVAILABLE = "unavailable"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Refuse:
    """The ticket will not be served. `detail` is for people; a retry makes sense after `retry_after_s`, if given."""

    ticket: int
    refusal: Refusal
    detail: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """A model came to another residency (told, nothing is to be done)."""

    model: str
    was: Residency
    to: Residency
    why: str


@dataclass(frozen=True, slots=True)
class Drains:
    """A model takes no new requests until it has left (`why` says for whom), or does so again (None). Told."""

    model: str
    why: str | None


@dataclass(frozen=True, slots=True)
class Replaced:
    """The model's engine has gone: from now on its new one is meant."""

    model: str


@dataclass(frozen=True, slots=True)
class Removed:
    """The model has gone, and is known no more."""

    model: str


Effect = Load | Sleep | Wake | Stop | Grant | Refuse | Moved | Drains | Replaced | Removed
