"""What the core knows of each model. Changed by the core alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from arena_server.pool.events import Away, ModelSpec, Times
from arena_server.pool.ledger import Footprint, Holding, holding_awake
from arena_server.pool.residency import COMING_UP, Residency

# What a transition is taken to cost until it was measured once, in seconds.
UNMEASURED = Times(load_s=10.0, wake_s=2.0, sleep_s=2.0, stop_s=1.0)
UNMEASURED_LOAD_S = 10.0
MAX_BACKOFF_S = 60.0
# An engine that crashes after it was up for so long had no failure in a row with those before.
STEADY_S = 60.0
# A model that fails so often in a row to fall asleep or to wake costs that and a load each time: it is stopped instead.
MOST_SLEEP_FAILURES = 2


@dataclass(slots=True)
class Model:
    """All that is known of one model. Changed by the core alone."""

    spec: ModelSpec
    residency: Residency = Residency.COLD
    since: float = 0.0  # when it came to be there
    leases: set[int] = field(default_factory=set)
    granted: int = 0  # tickets in all
    draining: Away | None = None  # asked to leave for a waiter, and how; the core may think better of it
    dismissed: Away | None = None  # asked to leave by an operator, or for a new configuration: it will
    why: str = ""  # it leaves, for people
    owed: set[int] = field(default_factory=set)  # who waited for it when it came up, until one of them is granted
    broken: bool = False
    last_used: float = -math.inf
    times: Times = field(default_factory=Times)
    asleep_bytes: Footprint | None = None  # measured; else the specification's
    sleep_host_bytes: int | None = None  # likewise
    host_bytes: int = 0  # held of host RAM, from its first sleep until it is stopped
    failures: int = 0  # in a row
    sleep_failures: int = 0  # to fall asleep or to wake, in a row
    room_first: bool = False  # its load ran out of memory: every idle model leaves before the next
    retried: bool = False  # that next load is the last
    error: str | None = None
    retry_at: float = -math.inf
    successor: ModelSpec | None = None  # what it will be once its engine has gone
    removed: bool = False

    @property
    def future(self) -> ModelSpec | None:
        """What it is once the configuration is in force; None if it goes."""
        return None if self.removed else self.successor or self.spec

    @property
    def name(self) -> str:
        """Its configured name."""
        return self.spec.name

    @property
    def local(self) -> bool:
        """Whether it runs on this host's devices; it needs no room if not."""
        return bool(self.spec.footprint)

    @property
    def busy(self) -> bool:
        """Whether it must not be put away now."""
        return bool(self.leases) or bool(self.owed)

    @property
    def idle(self) -> bool:
        """Whether it could be put away now without anybody noticing."""
        return self.ready and not self.busy and not self.spec.pinned

    @property
    def ready(self) -> bool:
        """Whether it may be leased now."""
        return self.residency is Residency.AWAKE and self.draining is None and self.dismissed is None

    @property
    def coming(self) -> bool:
        """Whether nothing more has to be done to have it ready."""
        return self.residency in COMING_UP or self.ready

    @property
    def startable(self) -> bool:
        """Whether a load or a wake could begin now."""
        return self.residency in (Residency.COLD, Residency.ASLEEP) and self.dismissed is None

    @property
    def when_awake(self) -> Holding:
        """What it holds awake."""
        return holding_awake(self.spec.footprint, self.host_bytes)

    @property
    def when_asleep(self) -> Holding | None:
        """What it holds asleep; None if it cannot sleep."""
        if self.spec.sleep_level == 0 or not self.local or self.sleep_failures >= MOST_SLEEP_FAILURES:
            return None
        device_bytes = self.spec.asleep if self.asleep_bytes is None else self.asleep_bytes
        host = self.spec.host_bytes if self.sleep_host_bytes is None else self.sleep_host_bytes
        return Holding(device_bytes, max(host, self.host_bytes), place=False)

    @property
    def when_falling_asleep(self) -> Holding:
        """What it holds meanwhile: the larger of both ends."""
        asleep = self.when_asleep or Holding({})
        return Holding(self._larger(asleep.device_bytes), max(asleep.host_bytes, self.host_bytes))

    @property
    def when_starting(self) -> Holding:
        """What it holds while it loads or wakes: the larger of both ends."""
        asleep = self.when_asleep if self.residency is Residency.ASLEEP else None
        return holding_awake(self._larger(asleep.device_bytes if asleep else {}), self.host_bytes)

    def _larger(self, asleep: Footprint) -> Footprint:
        awake = self.spec.footprint
        return {device: max(awake.get(device, 0), asleep.get(device, 0)) for device in {*awake, *asleep}}

    @property
    def start_s(self) -> float:
        """Seconds until it could be ready, were there room: none if it is; as measured, or a guess before that."""
        if self.ready:
            return 0.0
        if self.residency in (Residency.ASLEEP, Residency.FALLING_ASLEEP, Residency.WAKING):
            return self.times.wake_s or UNMEASURED.wake_s or 0.0
        return self.times.load_s or UNMEASURED_LOAD_S

    @property
    def stop_s(self) -> float:
        """Seconds that stopping it takes."""
        return self.times.stop_s or UNMEASURED.stop_s or 0.0

    @property
    def sleep_s(self) -> float:
        """Seconds that putting it to sleep takes."""
        return self.times.sleep_s or UNMEASURED.sleep_s or 0.0

    @property
    def backoff_s(self) -> float:
        """Seconds to leave it alone after a failure: none after the first, then 1, 2, 4 ... 60."""
        return 0.0 if self.failures <= 1 else min(2.0 ** (self.failures - 2), MAX_BACKOFF_S)

    @property
    def idle_expiry(self) -> float | None:
        """When it has been idle for too long; None if that is no matter."""
        ttl = self.spec.idle_ttl_s
        return self.last_used + ttl if ttl is not None and self.idle else None
