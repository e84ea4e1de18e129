"""What can go wrong with the store."""

from __future__ import annotations

from arena_server.errors import ArenaError
from arena_server.store.records import Vote

RETRY_AFTER_S = 5.0


class StoreUnavailable(ArenaError):
    """The database cannot be used now; the message says why, and what to do. A later call may succeed."""

    status = 503
    kind = "service_unavailable_error"
    code = "store_unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=RETRY_AFTER_S)


class AlreadyVoted(ArenaError):
    """The battle has its vote already: `vote` is what was recorded.

    It may be the caller's own, of an attempt whose acknowledgement was lost with the connection to the database.
    """

    status = 409
    kind = "invalid_request_error"
    code = "voted"

    def __init__(self, vote: Vote) -> None:
        super().__init__("This battle has been voted on already.")
        self.vote = vote
