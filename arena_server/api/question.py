"""What a client asks of a model: kept whole, and made into what each engine that may answer is to be sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from arena_server.api.answer import HOP_BY_HOP, Header, end_to_end
from arena_server.api.body import Ask, StreamOptions
from arena_server.api.body_edit import edited_async
from arena_server.api.token_counter import TokenCounter
from arena_server.caller import Caller
from arena_server.course import Course
from arena_server.engine import course_headers
from arena_server.engine.base import Engine

# Their streams tell the tokens so far in each event, if they are asked to.
COUNTING_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
# A session's, to be given the same of several models that share an alias.
SESSION_HEADER = b"x-arena-session"

Headers = Iterable[Header]

# Of no concern to the engine: what the client shows to be let in, and what describes this hop.
NOT_FOR_ENGINES = frozenset(
    {b"host", b"content-length", b"expect", b"authorization", b"x-api-key", b"cookie", SESSION_HEADER}
)
# Those of the course are put anew, as the daemon has them.
KEPT_FROM_ENGINE = HOP_BY_HOP | NOT_FOR_ENGINES | course_headers.NAMES


def header(headers: Headers, name: bytes) -> str:
    """The first of that name, which is in lower case, as those of an ASGI scope are; empty if there is none."""
    return next((value.decode("latin-1") for found, value in headers if found == name), "")


def session_of(headers: Headers, caller: Caller) -> str:
    """To whom the same of several models is given that share an alias: the session's own word, else the caller."""
    return header(headers, SESSION_HEADER) or caller.share


@dataclass(frozen=True, slots=True)
class Question:
    """One request. `path` is the engine's route with its query, if any; `headers` and `body` are the client's.

    `stream` tells whether its answer comes as server-sent events.
    """

    path: str
    headers: Headers
    body: bytes
    content_type: str
    ask: Ask
    stream: bool

    @property
    def route(self) -> str:
        """The path without its query."""
        return self.path.partition("?")[0]

    def counter(self) -> TokenCounter:
        """Counts the tokens of its answer, and takes out of it what the client did not ask for."""
        asked = self.ask.stream_options or StreamOptions()
        return TokenCounter(
            self.route,
            stream=self.stream,
            show_usage=asked.include_usage,
            show_each=asked.continuous_usage_stats,
            choices=self.ask.n or 1,
        )

    def headers_for(self, course: Course) -> list[Header]:
        """What an engine is sent of the headers."""
        return [*end_to_end(self.headers, KEPT_FROM_ENGINE), *course_headers.course_headers(course)]

    async def body_for(self, engine: Engine) -> bytes:
        """The body as the engine is to have it: with the name by which it knows its model, and asking for counts."""
        fields: dict[str, Any] = {}
        # Of several `model`s a server that is not ours may take another one than `ask` has, and than was allowed.
        if engine.remote or self.ask.model != engine.served_name:
            fields["model"] = engine.served_name
        asked = self.ask.stream_options or StreamOptions()
        if self.stream and self.route in COUNTING_PATHS and asked.valid:
            # Of each event, so that an answer that is left early is counted to its last token. That is vLLM's own word,
            # which other servers might refuse, unless the client has sent it.
            own = not engine.remote or (asked.include_usage and asked.continuous_usage_stats)
            each = {"continuous_usage_stats": True} if own else {}
            fields["stream_options"] = {**asked.others, "include_usage": True, **each}
        return await edited_async(self.body, self.content_type, fields) if fields else self.body
