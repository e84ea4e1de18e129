"""Spans and moments as they are typed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from arena_server.console.moments import moment_of, span_s

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("90s", 90), ("30m", 1800), ("24h", 86400), ("30D", 2592000), ("2w", 1209600)],
)
def test_a_span(text: str, seconds: int) -> None:
    assert span_s(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "1y", "-1d", "1.5d", "d", "1 d", "9999999w", "٣d"])
def test_no_span(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a time|longer"):
        span_s(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", NOW + timedelta(days=30)),
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=UTC)),
        ("2026-11-21", datetime(2026, 11, 22, tzinfo=UTC)),  # to the end of today
        ("2027-01-31T08:00", datetime(2027, 1, 31, 8, tzinfo=UTC)),
        ("2027-01-31T08:00+02:00", datetime(2027, 1, 31, 8, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_a_moment(text: str, moment: datetime) -> None:
    assert moment_of(text, NOW) == moment
    assert moment_of(text, NOW).tzinfo is UTC


@pytest.mark.parametrize(
    "text", ["0", "2026-11-20", "2026-11-21T11:59", "tomorrow", "2027-02-30", "9999-12-31", "31.1.2027"]
)
def test_no_moment_to_come(text: str) -> None:
    with pytest.raises(ValueError, match=r"over|neither"):
        moment_of(text, NOW)
