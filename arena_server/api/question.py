"""What a client asks of a model: kept whole, and made into what each engine that may answer is to be sent."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import JsonValue

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
COUNTS: dict[str, JsonValue] = {"include_usage": True}
# Of each event, so that an answer that is left early is counted to its last token.
COUNTS_OF_EACH: dict[str, JsonValue] = {**COUNTS, "continuous_usage_stats": True}
COUNTS_JSON = json.dumps(COUNTS).encode()
COUNTS_OF_EACH_JSON = json.dumps(COUNTS_OF_EACH).encode()
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
    for found, value in headers:
        if found == name:
            return value.decode("latin-1")
    return ""


def session_of(headers: Headers, caller: Caller) -> str:
    """To whom the same of several models is given that share an alias: the session's own word, else the caller."""
    return header(headers, SESSION_HEADER) or caller.share


@dataclass(frozen=True, slots=True)
class Question:
    """One request. `route` is the engine's; `query`, `headers` and `body` are the client's.

    `stream` tells whether its answer comes as server-sent events.
    """

    route: str
    query: str
    headers: Headers
    body: bytes
    content_type: str
    ask: Ask
    stream: bool

    @property
    def path(self) -> str:
        """The route with its query, if any."""
        return f"{self.route}?{self.query}" if self.query else self.route

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
        fields: dict[str, JsonValue | bytes] = {}
        # Of several `model`s a server that is not ours may take another one than `ask` has, and than was allowed.
        if engine.remote or self.ask.model != engine.served_name:
            fields["model"] = engine.served_name
        asked = self.ask.stream_options or StreamOptions()
        if self.stream and self.route in COUNTING_PATHS and asked.valid:
            # Counts of each event are vLLM's own: other servers might refuse the word, unless the client has sent it.
            each = not engine.remote or (asked.include_usage and asked.continuous_usage_stats)
            if asked.others:
                fields["stream_options"] = {**asked.others, **(COUNTS_OF_EACH if each else COUNTS)}
            else:
                fields["stream_options"] = COUNTS_OF_EACH_JSON if each else COUNTS_JSON
        return await edited_async(self.body, self.content_type, fields) if fields else self.body
