"""Where the daemon's log goes, and how a line of it looks."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

from arena_server.request_id import RequestIdFilter

# What a line says; a terminal and files get time and level before it, the journal has its own.
MESSAGE = "%(of_request)s%(message)s"
PLAIN = f"%(asctime)s %(levelname)-7s {MESSAGE}"


class JournalFormatter(logging.Formatter):
    """Lines for the journal: each begins with syslog's level as `<3>`, as sd-daemon(3) has it, and without the time."""

    def __init__(self, fmt: str = MESSAGE) -> None:
        super().__init__(fmt, defaults={"of_request": ""})

    def format(self, record: logging.LogRecord) -> str:
        """Every line has the level: the journal makes an entry of each, and a traceback's are no less an error."""
        mark = f"<{syslog_level(record.levelno)}>"
        return "\n".join(mark + line for line in super().format(record).splitlines() if line.strip())


def set_up_logging(level: str) -> None:
    """Log to standard error: time, level, request id, message; or the journal's form, if that is what that leads to.

    `level` is one of the configuration's `log_level`.
    """
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format=PLAIN, force=True)
    (handler,) = logging.getLogger().handlers
    handler.addFilter(RequestIdFilter())
    if is_journal(sys.stderr):
        handler.setFormatter(JournalFormatter())
    # A line per start and stop of the HTTP server, which the daemon says better itself.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # A line per plugin of its own, at each start.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # At its level `debug` it writes out each event, and with them prompts and answers.
    logging.getLogger("sse_starlette").setLevel(logging.INFO)


def complain(line: str) -> None:
    """Say why a command fails, on standard error; in the journal it is an error."""
    mark = f"<{syslog_level(logging.ERROR)}>" if is_journal(sys.stderr) else ""
    print(f"{mark}arena-server: {line}", file=sys.stderr)


def is_journal(stream: TextIO) -> bool:
    """Whether the stream leads to systemd's journal: $JOURNAL_STREAM is its device and inode (systemd.exec(5))."""
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def syslog_level(level: int) -> int:
    """A level of `logging` as one of syslog(3): from 2 (critical) to 7 (debug)."""
    steps = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((number for least, number in steps if level >= least), 7)
