"""How long something has been seen not to move."""

from __future__ import annotations

from arena_server.clock import Clock


class Stillness:
    """Counts the seconds since the last movement, look by look.

    Between two looks no more than `longest_step_s` counts: if it was the daemon that stood still (SIGSTOP, a suspended
    machine), what has moved meanwhile is not known to it yet.
    """

    def __init__(self, clock: Clock, longest_step_s: float) -> None:
        self._clock = clock
        self._longest_step_s = longest_step_s
        self._last = clock.now()
        self._still_s = 0.0

    def moved(self) -> None:
        """Begin again at zero."""
        self._last = self._clock.now()
        self._still_s = 0.0

    def look(self) -> float:
        """The seconds without movement, up to now."""
        now = self._clock.now()
        self._still_s += min(now - self._last, self._longest_step_s)
        self._last = now
        return self._still_s
