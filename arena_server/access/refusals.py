"""Why somebody is not let in although the key is good."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from arena_server.errors import ArenaError

Headers = Sequence[tuple[bytes, bytes]]


class OverLimit(ArenaError):
    """The caller has asked too much for now. `left`, once they are there, are headers: how much is left of what."""

    status = 429
    kind = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.left: Headers = ()


class OverQuota(OverLimit):
    """The day's tokens are used up. OpenAI's name for it: its clients know that it is no use to try again soon."""

    headers = MappingProxyType({"x-should-retry": "false"})  # OpenAI's and Anthropic's clients would, in half a second
    kind = "insufficient_quota"
    code = "insufficient_quota"
