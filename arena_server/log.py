"""Where the daemon's log goes, and how a line of it looks."""

from __future__ import annotations

import logging
import sys


def set_up_logging(level: str) -> None:
    """Log to standard error: time, level, message. `level` is one of the configuration's `log_level`."""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(message)s",
        force=True,
    )
    # A line per start and stop of the HTTP server, which the daemon says better itself.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
