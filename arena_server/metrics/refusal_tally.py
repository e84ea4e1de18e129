"""Counts who was not let in."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

# Shown from the start: what begins at 1 has no increase to be seen.
CODES = (
    "invalid_api_key",
    "insufficient_scope",
    "too_many_failed_tries",
    "rate_limit_exceeded",
    "insufficient_quota",
    "store_unavailable",
    "not_found",
)


class RefusalTally:
    """Counts requests that came no further than the door, by why."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refusals = Counter(
            "arena_refused_requests",
            "Requests that were not let in: for want of a good key or scope, over a limit, or to no route.",
            ["code"],
            registry=registry,
        )
        for code in CODES:
            self._refusals.labels(code)

    def refused(self, code: str) -> None:
        """One more; `code` is its error's."""
        self._refusals.labels(code).inc()
