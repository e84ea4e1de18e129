"""What was logged during a test."""

from __future__ import annotations

from logging import LogRecord

import pytest


def logged(caplog: pytest.LogCaptureFixture) -> list[LogRecord]:
    """All of it, for a fixture's end, where `caplog.records` are those of the end alone."""
    return [*caplog.get_records("setup"), *caplog.get_records("call"), *caplog.get_records("teardown")]
