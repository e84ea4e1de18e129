"""Who a request is from: its id, which every log line of it carries, its trace, and its caller."""

from __future__ import annotations

import logging
import os
from contextvars import ContextVar
from dataclasses import dataclass

from arena_server.caller import ANYBODY, Caller

LONGEST = 128  # characters


@dataclass(frozen=True, slots=True)
class Origin:
    """`request_id` is the client's own if it is sane; `traceparent` is W3C's header as it came; `caller` who asks."""

    request_id: str
    traceparent: str | None = None
    caller: Caller = ANYBODY

    def of_side(self, letter: str) -> str:
        """The id of one side of a comparison or battle. It says nothing of the model."""
        return f"{self.request_id}-{letter}"


# Of the request that the running task answers; None outside of requests.
_ORIGIN: ContextVar[Origin | None] = ContextVar("arena_server_request", default=None)


def set_origin(origin: Origin) -> None:
    """From now on this task, and those it makes, answer that request."""
    _ORIGIN.set(origin)


def origin() -> Origin:
    """Of the request that is being answered; a new one outside of requests."""
    return _ORIGIN.get() or Origin(new_request_id())


def new_request_id() -> str:
    """32 hexadecimal digits."""
    return os.urandom(16).hex()  # a third of the time that uuid takes


def sane(text: str) -> bool:
    """Whether a client's id may go into logs and headers as it is: 1 to 128 visible ASCII characters."""
    return 0 < len(text) <= LONGEST and text.isascii() and text.isprintable() and " " not in text


class RequestIdFilter(logging.Filter):
    """Lets every record pass, with the id of the request in whose course it was made, if any: as `request_id`.

    `of_request` is the same for a line's beginning: "[id] ", or nothing. To be added to handlers: a logger's filter
    does not see what its children log.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        found = _ORIGIN.get()
        record.request_id = found.request_id if found is not None else ""
        record.of_request = f"[{found.request_id}] " if found is not None else ""
        return True
