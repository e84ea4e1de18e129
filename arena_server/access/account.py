"""What one key, or one address, has asked, and what is left to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from arena_server.access.meter import Meter
from arena_server.access.refusals import Headers, OverLimit, OverQuota
from arena_server.config_access import LimitsConfig

NO_LIMITS = LimitsConfig()
# When one of the requests that run now ends is not known.
BUSY_RETRY_S = 1.0


@dataclass(slots=True)
class Account:
    """`whose` says whose it is, to its owner. `limits` are those in force; `today` are the tokens of `day`."""

    whose: str
    limits: LimitsConfig = NO_LIMITS
    requests: Meter = field(default_factory=Meter)
    tokens: Meter = field(default_factory=Meter)
    running: int = 0
    day: date = date.min
    today: int = 0

    def check(self, now: float, wall: datetime) -> None:
        """Whether one more may come in. `now` is a Clock's, `wall` the time of day in UTC.

        Raises OverLimit and OverQuota.
        """
        limits = self.limits
        if limits.tokens_per_day is not None and self._tokens_on(wall.date()) >= limits.tokens_per_day:
            raise OverQuota(
                f"The {limits.tokens_per_day} tokens a day of {self.whose} are used up. A new day begins at 00:00 UTC.",
                _to_midnight_s(wall),
            )
        if limits.concurrent_requests is not None and self.running >= limits.concurrent_requests:
            raise self._over(f"{limits.concurrent_requests} requests at the same time", BUSY_RETRY_S)
        if limits.requests_per_minute is not None:
            wait_s = self.requests.until_left(1, limits.requests_per_minute, now)
            if wait_s > 0:
                raise self._over(f"{limits.requests_per_minute} requests a minute", wait_s)
        if limits.tokens_per_minute is not None:
            wait_s = self.tokens.until_left(1, limits.tokens_per_minute, now)
            if wait_s > 0:
                raise self._over(f"{limits.tokens_per_minute} tokens a minute", wait_s)

    def begin(self, now: float) -> None:
        """One more has come in."""
        self.running += 1
        if self.limits.requests_per_minute is not None:
            self.requests.take(1, self.limits.requests_per_minute, now)

    def spend(self, tokens: int, now: float, day: date) -> None:
        """So many tokens more were asked or answered."""
        self.today = self._tokens_on(day) + tokens
        self.day = day
        if self.limits.tokens_per_minute is not None:
            self.tokens.take(tokens, self.limits.tokens_per_minute, now)

    def _tokens_on(self, day: date) -> int:
        return self.today if self.day == day else 0

    def _over(self, limit: str, wait_s: float) -> OverLimit:
        message = f"The rate limit of {self.whose} is reached: {limit}. Try again in {duration(wait_s)}."
        return OverLimit(message, wait_s)


def ratelimit_headers(accounts: Iterable[Account], now: float) -> Headers:
    """What is left of requests and tokens a minute, of whichever account has less.

    https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
    """
    known = list(accounts)
    requests = [(a.requests, a.limits.requests_per_minute) for a in known]
    tokens = [(a.tokens, a.limits.tokens_per_minute) for a in known]
    return [*_headers(b"requests", requests, now), *_headers(b"tokens", tokens, now)]


def _headers(what: bytes, meters: Iterable[tuple[Meter, int | None]], now: float) -> Iterator[tuple[bytes, bytes]]:
    limited = [(meter.left(limit, now), limit, meter) for meter, limit in meters if limit is not None]
    if limited:
        left, limit, meter = min(limited, key=lambda each: each[0])
        yield b"x-ratelimit-limit-" + what, b"%d" % limit
        yield b"x-ratelimit-remaining-" + what, b"%d" % max(0, int(left))
        yield b"x-ratelimit-reset-" + what, duration(meter.until_full(limit, now)).encode()


def duration(seconds: float) -> str:
    """As OpenAI's headers have it, which is Go's way: 20ms, 1s, 1.5s, 6m0s, 24h0m0s. Rounded up, to be long enough."""
    ms = -int(-seconds * 1000 // 1)
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{ms / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _to_midnight_s(wall: datetime) -> float:
    return (datetime.combine(wall.date() + timedelta(days=1), time(), UTC) - wall).total_seconds()
