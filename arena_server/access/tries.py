"""Wrong keys, counted by address: whoever shows too many is not listened to for a while."""

from __future__ import annotations

from cachetools import LRUCache, TTLCache

from arena_server.access.meter import MINUTE_S, Meter
from arena_server.clock import Clock
from arena_server.errors import ArenaError

# Bounded, as anybody can show any number of keys, and (IPv6) from many addresses.
MOST_KEPT = 10_000
ACCEPTED_S = 24 * 3600.0


class TooManyTries(ArenaError):
    """Too many wrong keys have come from this address."""

    status = 429
    kind = "rate_limit_error"
    code = "too_many_failed_tries"


class Tries:
    """Counts wrong keys. For the event loop's thread; keys come as their SHA-256, addresses as they are `counted`.

    Guessing takes one new key after the other: that shuts an address. A program that shows the same wrong key again and
    again is shut out with that key alone, or it would shut out all the others at its address (a proxy's, an office's).
    Nor are those shut out whose keys were accepted from there before.
    """

    def __init__(self, clock: Clock, per_minute: int) -> None:
        """`per_minute` wrong keys may come from an address, and so many times the same one."""
        self.per_minute = per_minute
        self._clock = clock
        self._addresses: LRUCache[str, Meter] = LRUCache(MOST_KEPT)
        self._wrong: TTLCache[tuple[str, str], Meter] = TTLCache(MOST_KEPT, MINUTE_S, timer=clock.now)
        self._accepted: TTLCache[tuple[str, str], None] = TTLCache(MOST_KEPT, ACCEPTED_S, timer=clock.now)

    def check(self, address: str, sha256: str) -> None:
        """Raises TooManyTries if this key is not even to be looked at."""
        now = self._clock.now()
        meters = self._wrong.get((address, sha256)), self._addresses.get(address)
        wait_s = max((m.until_left(1, self.per_minute, now) for m in meters if m is not None), default=0.0)
        if wait_s > 0 and (address, sha256) not in self._accepted:
            raise TooManyTries("Too many wrong API keys were shown from this address.", retry_after_s=wait_s)

    def failed(self, address: str, sha256: str) -> bool:
        """This key was wrong. Returns whether the next that is shown from there is not looked at any more."""
        now = self._clock.now()
        self._accepted.pop((address, sha256), None)  # it was good once
        meter = self._wrong.get((address, sha256))
        if meter is None:
            meter = self._wrong[address, sha256] = Meter()
            self._of(address).take(1, self.per_minute, now)
        meter.take(1, self.per_minute, now)
        return min(m.left(self.per_minute, now) for m in (meter, self._of(address))) < 1

    def accepted(self, address: str, sha256: str) -> None:
        """This key was right."""
        if (address, sha256) not in self._accepted:
            self._accepted[address, sha256] = None

    def _of(self, address: str) -> Meter:
        meter = self._addresses.get(address)
        if meter is None:  # not `setdefault`, by which cachetools does not see what was used last
            meter = self._addresses[address] = Meter()
        return meter
