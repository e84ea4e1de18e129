"""What the core is told, and what it orders. Plain values; times are in seconds of the caller's clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from arena_server.pool.ledger import Footprint


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the core must know of a model: its bytes on each of its devices, and its owner's wishes."""

    name: str
    footprint: Footprint
    pinned: bool = False
    idle_ttl_s: float | None = None


# Events: what happened.


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody wants all these models awake together, under the (new) ticket."""

    ticket: int
    models: frozenset[str]


@dataclass(frozen=True, slots=True)
class Release:
    """The ticket is no longer needed: granted and done with, or given up while it waited."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A load ended well."""

    model: str


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A load ended badly; the engine's remains are still to be stopped."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Crashed:
    """An awake engine ended by itself; its remains are still to be stopped."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A stop is complete and the memory is back."""

    model: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Close:
    """The daemon is stopping: nobody new, nothing new."""


Event = Request | Release | Loaded | LoadFailed | Crashed | Stopped | Tick | Close


# Effects: what is to be done.


@dataclass(frozen=True, slots=True)
class Load:
    """Start the model's engine; report Loaded or LoadFailed."""

    model: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the model's engine; report Stopped. `why` is for people."""

    model: str
    why: str


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


Effect = Load | Stop | Grant | Refuse
