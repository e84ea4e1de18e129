"""Time, passed in, so that a test can hold it still."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of monotonic time."""

    def now(self) -> float:
        """Seconds since an arbitrary fixed moment; never goes back."""
        ...


class SystemClock:
    """The machine's monotonic clock (the one asyncio's event loop counts by)."""

    def now(self) -> float:
        """Seconds, as `time.monotonic()`."""
        return time.monotonic()
