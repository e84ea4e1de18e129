"""Counts how often the configuration was read again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge

from arena_server.errors import ArenaError

T = TypeVar("T")


class ReloadTally:
    """Counts reloads by their result."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._reloads = Counter(
            "arena_config_reloads",
            "How often the configuration was read again; failed: it stayed as it was.",
            ["result"],
            registry=registry,
        )
        self._ok, self._failed = self._reloads.labels("ok"), self._reloads.labels("failed")
        self._good = Gauge(
            "arena_config_last_reload_successful",
            "Whether what was read last is in force (1); 0: the file is wrong, and the one before it is.",
            registry=registry,
        )
        self._good.set(1)

    def counted(self, reload: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        """The same, counted."""

        async def count() -> T:
            try:
                report = await reload()
            except ArenaError:
                self._failed.inc()
                self._good.set(0)
                raise
            self._ok.inc()
            self._good.set(1)
            return report

        return count
