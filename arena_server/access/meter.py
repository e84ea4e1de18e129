"""What is taken from an allowance that comes back steadily: a token bucket, kept as what is missing in it.

As it is kept, a bucket needs no size: the limit may change while it is in use, and a full one is like none at all.
https://en.wikipedia.org/wiki/Leaky_bucket#As_a_meter
"""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_S = 60.0


@dataclass(slots=True)
class Meter:
    """How much has been taken of so much a minute; may be more than there was, which then is paid back first.

    `now` is a Clock's time in seconds, `limit` how much comes in a minute, and how much there is at most.
    """

    taken: float = 0.0
    at: float = 0.0

    def left(self, limit: float, now: float) -> float:
        """What may be taken now; less than nothing while a debt is paid back."""
        return limit - self._decayed(limit, now)

    def take(self, amount: float, limit: float, now: float) -> None:
        """Take it, whether it is there or not."""
        self.taken = self._decayed(limit, now) + amount
        self.at = now

    def until_left(self, amount: float, limit: float, now: float) -> float:
        """Seconds until `amount` may be taken."""
        return max(0.0, amount - self.left(limit, now)) * MINUTE_S / limit

    def until_full(self, limit: float, now: float) -> float:
        """Seconds until all of it may be taken."""
        return self._decayed(limit, now) * MINUTE_S / limit

    def _decayed(self, limit: float, now: float) -> float:
        return max(0.0, self.taken - (now - self.at) * limit / MINUTE_S)
