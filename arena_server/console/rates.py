"""Requests per minute, from counters that only grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

WINDOW_S = 60.0


class Rates:
    """The counters of the last minute."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, int]]] = deque()

    def take(self, now: float, totals: Mapping[str, int]) -> None:
        """Note the counters at that moment, in seconds."""
        if self._samples and any(totals.get(name, 0) < total for name, total in self._samples[-1][1].items()):
            self._samples.clear()  # a daemon that began anew (or lost a model): its counters did too
        self._samples.append((now, dict(totals)))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()

    def per_minute(self, name: str) -> float | None:
        """The rate of one; None while it cannot be known."""
        if len(self._samples) < 2:
            return None
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        if name not in last or ended <= began:
            return None
        return (last[name] - first.get(name, last[name])) * 60 / (ended - began)

    def overall(self) -> float | None:
        """The rate of all together."""
        known = [rate for name in self._names() if (rate := self.per_minute(name)) is not None]
        return sum(known) if known else None

    def _names(self) -> list[str]:
        return list(self._samples[-1][1]) if self._samples else []
