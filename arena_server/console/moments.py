"""Spans of time and moments as people type them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
LONGEST_S = 100 * 366 * 86400


def span_s(text: str) -> int:
    """`30d`, `24h`, `90m`, `0`: seconds. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text.strip().lower())
    if found is None:
        if text.strip() == "0":
            return 0
        raise ValueError("not a time such as 24h or 30d (s, m, h, d, w)")
    seconds = int(found[1]) * UNITS_S[found[2]]
    if seconds > LONGEST_S:
        raise ValueError("longer than a hundred years")
    return seconds


def moment_of(text: str, now: datetime) -> datetime:
    """`30d`: so long from `now`; `2027-01-31`: the end of that day, UTC; or a moment in ISO 8601, by itself in UTC.

    Raises ValueError, also for what is over.
    """
    try:
        moment = now + timedelta(seconds=span_s(text))
    except ValueError:
        moment = _written(text)
    if moment <= now:
        raise ValueError("that is over")
    return moment


def _written(text: str) -> datetime:
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return datetime.combine(date.fromisoformat(text) + timedelta(days=1), time(), UTC)
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("neither a time such as 30d nor a date such as 2027-01-31") from None
