"""Notices a load that gets nowhere: nothing printed, nothing read, nothing written."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from arena_server.clock import Clock
from arena_server.engine.stillness import Stillness

# Less than this is what processes do that wait for each other.
LEAST_MOVED_BYTES = 1 << 20
LONGEST_INTERVAL_S = 1.0

# Printed every minute by one that waits for another that hangs.
_SAYS_THAT_IT_WAITS = "No available shared memory broadcast block"


class LoadStall:
    """One load's signs of life.

    Bytes moved count, since vLLM prints nothing during a download; CPU time does not, since a collective that waits
    for ever spins.
    """

    def __init__(self, limit_s: float, moved_bytes: Callable[[], Mapping[int, int]], clock: Clock) -> None:
        """`moved_bytes` gives the bytes each process has read and written so far, by pid."""
        self._limit_s = limit_s
        self._moved_bytes = moved_bytes
        self._clock = clock
        self._interval_s = min(limit_s / 10, LONGEST_INTERVAL_S)
        self._stillness = Stillness(clock, 2 * self._interval_s)
        self._next_look = clock.now()
        self._before: Mapping[int, int] = {}
        self._moved = 0

    def printed(self, line: str) -> None:
        """A line, or a state of a progress bar, was printed."""
        if _SAYS_THAT_IT_WAITS not in line:
            self._sign()

    def over(self) -> bool:
        """Whether there was no sign of progress for so long that the load is to be given up. May be asked often."""
        if self._clock.now() < self._next_look:
            return False
        self._next_look = self._clock.now() + self._interval_s
        now = self._moved_bytes()
        self._moved += sum(max(0, moved - self._before.get(pid, 0)) for pid, moved in now.items())
        self._before = now
        if self._moved >= LEAST_MOVED_BYTES:
            self._sign()
        return self._stillness.look() >= self._limit_s

    def _sign(self) -> None:
        self._moved = 0
        self._stillness.moved()
