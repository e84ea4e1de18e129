"""Counts what the pool does."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from arena_server.engine.base import Engine
from arena_server.metrics.engines import Engines
from arena_server.pool.events import Refusal
from arena_server.pool.why import Cause

# A wake takes fractions of a second, the first load of a large model from a slow disk half an hour.
TRANSITION_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1800)
CAN_FAIL = ("load", "sleep", "wake")


class PoolTally:
    """A `Witness` of the pool."""

    def __init__(self, registry: CollectorRegistry, engines: Engines) -> None:
        self._engines = engines
        self._ordered = Counter(
            "arena_transitions",
            "Transitions that were begun. kind: load, sleep, wake, stop; reason: what is behind it.",
            ["model", "kind", "reason"],
            registry=registry,
        )
        self._seconds = Histogram(
            "arena_transition_seconds",
            "Seconds that transitions took which ended well, by kind; of a stop: until its memory was back.",
            ["model", "kind"],
            buckets=TRANSITION_BUCKETS_S,
            registry=registry,
        )
        self._failed = Counter(
            "arena_transition_failures",
            "Loads, sleeps and wakes that failed.",
            ["model", "kind"],
            registry=registry,
        )
        self._crashed = Counter(
            "arena_engine_crashes",
            "Engines that ended by themselves, or stood still for too long.",
            ["model"],
            registry=registry,
        )
        self._refused = Counter(
            "arena_refusals",
            "Requests that the pool refused to queue or to wait for any longer, by reason.",
            ["reason"],
            registry=registry,
        )
        for refusal in Refusal:
            self._refused.labels(_label(refusal))

    def know(self, model: str) -> None:
        """Show the model from now on: an alert on a first failure needs the 0 before it."""
        self._crashed.labels(model)
        for kind in CAN_FAIL:
            self._failed.labels(model, kind)

    def ordered(self, kind: str, model: str, cause: Cause) -> None:
        """See `Witness`."""
        self._ordered.labels(model, kind, cause).inc()

    def took(self, kind: str, model: str, seconds: float) -> None:
        """See `Witness`."""
        self._seconds.labels(model, kind).observe(seconds)

    def failed(self, kind: str, model: str) -> None:
        """See `Witness`."""
        self._failed.labels(model, kind).inc()

    def crashed(self, model: str) -> None:
        """See `Witness`."""
        self._crashed.labels(model).inc()

    def refused(self, refusal: Refusal) -> None:
        """See `Witness`."""
        self._refused.labels(_label(refusal)).inc()

    async def leaves(self, engine: Engine) -> bool:
        """See `Witness`: its tokens are read once more."""
        return await self._engines.last_look(engine)


def _label(words: str) -> str:
    return words.replace(" ", "_")
