"""What the core knows: of each model, and of each ticket that waits. Changed by the core alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from arena_server.pool.events import ModelSpec
from arena_server.pool.residency import Residency

# What a load is taken to cost until the first one was measured.
UNMEASURED_LOAD_S = 10.0
MAX_BACKOFF_S = 60.0
# An engine that crashes after it was up for so long had no failure in a row with those before.
STEADY_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How many may wait, how long, and how long the evictor waits for a busy model (None: as long as a swap costs)."""

    max_queue: int = 1000
    max_wait_s: float = 600.0
    patience_s: float | None = None


@dataclass(slots=True)
class Model:
    """All that is known of one model. Changed by `PoolCore` alone."""

    spec: ModelSpec
    residency: Residency = Residency.COLD
    since: float = 0.0  # when it came to be there
    leases: set[int] = field(default_factory=set)
    draining: str | None = None  # why, for people
    owed: set[int] = field(default_factory=set)  # who waited for it when it came up, until one of them is granted
    broken: bool = False
    last_used: float = -math.inf
    load_s: float | None = None
    failures: int = 0  # in a row
    error: str | None = None
    retry_at: float = -math.inf

    @property
    def busy(self) -> bool:
        """Whether it must not be stopped now."""
        return bool(self.leases) or bool(self.owed)

    @property
    def ready(self) -> bool:
        """Whether it may be leased now."""
        return self.residency is Residency.AWAKE and self.draining is None

    @property
    def coming(self) -> bool:
        """Whether nothing more has to be done to have it ready."""
        return self.residency is Residency.LOADING or self.ready

    @property
    def cost_s(self) -> float:
        """Seconds until it could be ready: none if it is, else its last load, or a guess before the first."""
        return 0.0 if self.ready else self.load_s or UNMEASURED_LOAD_S

    @property
    def backoff_s(self) -> float:
        """Seconds to leave it alone after a failure: none after the first, then 1, 2, 4 ... 60."""
        return 0.0 if self.failures <= 1 else min(2.0 ** (self.failures - 2), MAX_BACKOFF_S)

    @property
    def idle_expiry(self) -> float | None:
        """When it has been idle for too long; None if that is no matter."""
        ttl = self.spec.idle_ttl_s
        if ttl is None or self.spec.pinned or self.residency is not Residency.AWAKE or self.busy:
            return None
        return self.last_used + ttl


@dataclass(slots=True)
class Waiter:
    """A ticket in the queue."""

    ticket: int
    models: frozenset[str]
    since: float
    blocked_since: float | None = None  # since when only busy models could make room for it
