"""Answers that are kept, to be given again to the same caller for an identical request that is deterministic.

Off by default. Two identical requests at the same time both go to the engine: neither waits for the other's end.
Answers are kept in memory alone, and each caller's apart: nobody learns from an answer's speed what others have asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cachetools import TTLCache
from pydantic_core import from_json
from starlette.types import Message, Send

from arena_server.api.answer import SERVED_BY, Header, end_to_end
from arena_server.api.answer_end import GENERATION_PATHS, is_good_stream, is_good_whole
from arena_server.api.form import is_form
from arena_server.api.question import KEPT_FROM_ENGINE, Question
from arena_server.api.relay import RESPONSES_PATH
from arena_server.caller import Caller
from arena_server.clock import Clock
from arena_server.config import CacheConfig, Config
from arena_server.config_model import ModelConfig
from arena_server.course import Course

# To compare it, a body is read into Python objects on the event loop: some milliseconds for this many bytes.
LONGEST_BODY_BYTES = 256 << 10
# No answer may have more than this part of the cache, or one would drive all others out.
MOST_OF_CACHE = 1 / 16
# Of the engine's headers those that are the answer's; others (a hosted API's cookies, limits, ids) are one request's.
KEPT_HEADERS = frozenset({b"content-type", b"cache-control", b"x-accel-buffering", SERVED_BY})
# Of what is being made, likewise: with what is kept, `max_bytes`.
MOST_IN_THE_MAKING = 1 / 4
# Of a client's headers those that change no answer. Any other that reaches the engine may (`anthropic-beta`).
IGNORED_HEADERS = frozenset(
    b"accept accept-encoding accept-language cache-control dnt forwarded origin pragma priority referer tracestate "
    b"baggage user-agent via x-real-ip".split()
)
IGNORED_PREFIXES = (b"x-stainless-", b"x-forwarded-", b"x-b3-", b"sec-", b"cf-")
CACHE_HEADER = b"x-arena-cache"
OVERHEAD_BYTES = 1024  # of Python objects around an answer, about


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What an answer is kept under: a digest of the request and of who asks, and the model that has to answer it."""

    digest: bytes
    model: str
    route: str


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A whole answer, as its first client got it; `at` is when, by the daemon's clock."""

    headers: tuple[Header, ...]
    body: bytes
    at: float

    @property
    def size_bytes(self) -> int:
        """What it takes of the cache."""
        return OVERHEAD_BYTES + len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


class AnswerCache:
    """Bounded in bytes and in time; beyond the bytes those go that were not used for longest."""

    def __init__(self, config: CacheConfig, clock: Clock) -> None:
        self._clock = clock
        self._config = config
        self._answers = self._empty()
        self._in_the_making_bytes = 0

    def configure(self, config: Config) -> None:
        """Another configuration is in force. With other bounds nothing is kept of what there was."""
        if config.cache != self._config:
            self._config = config.cache
            self._answers = self._empty()

    @property
    def longest_bytes(self) -> float:
        """The most that one answer may take."""
        return self._config.max_bytes * MOST_OF_CACHE

    def take_room(self, more_bytes: int) -> bool:
        """Room for more of an answer that is being made: whether there is some. It is to be given back."""
        if self._in_the_making_bytes + more_bytes > self._config.max_bytes * MOST_IN_THE_MAKING:
            return False
        self._in_the_making_bytes += more_bytes
        return True

    def give_back_room(self, some_bytes: int) -> None:
        """What was taken for an answer."""
        self._in_the_making_bytes -= some_bytes

    def key_of(self, caller: Caller, question: Question, model: str, config: ModelConfig) -> CacheKey | None:
        """Under which the answer is kept of `model`, so configured; None if it is none to be kept, or looked for."""
        if not self._config.enabled or not _may_be_cached(question):
            return None
        try:
            body = from_json(question.body)
        except ValueError:
            return None
        if not isinstance(body, Mapping) or _leans_on_state(question.route, body) or _points_elsewhere(body):
            return None
        # A model that was changed has other answers. (Weights that change under the same name go unnoticed.)
        said = (question.path, _headers_that_matter(question), json.dumps(body, sort_keys=True))
        parts = (caller.share, model, config.model_dump_json(), *said)
        return CacheKey(sha256(json.dumps(parts).encode()).digest(), model, question.route)

    def get(self, key: CacheKey) -> CachedAnswer | None:
        """The answer, if it is kept."""
        return self._answers.get(key.digest)

    def keep(self, key: CacheKey, headers: Iterable[Header], body: bytes) -> None:
        """Keep a whole answer that was given now."""
        kept = tuple((name, value) for name, value in headers if name in KEPT_HEADERS)
        answer = CachedAnswer(kept, body, self._clock.now())
        # The bounds may have changed while it was made.
        if self._config.enabled and answer.size_bytes <= self.longest_bytes:
            self._answers[key.digest] = answer

    async def replay(self, answer: CachedAnswer, course: Course, send: Send) -> None:
        """Give it again, and end the course, which has begun: it waits for no model and takes no tokens."""
        course.cached = True
        course.is_granted()
        age_s = int(max(0.0, self._clock.now() - answer.at))
        own = [(CACHE_HEADER, b"hit"), (b"age", b"%d" % age_s), (b"content-length", b"%d" % len(answer.body))]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [*answer.headers, *own]})
            await send({"type": "http.response.body", "body": answer.body, "more_body": False})
        finally:
            course.end(200)

    def _empty(self) -> TTLCache[bytes, CachedAnswer]:
        return TTLCache(
            maxsize=self._config.max_bytes * (1 - MOST_IN_THE_MAKING),
            ttl=self._config.ttl_s,
            timer=self._clock.now,
            getsizeof=lambda answer: answer.size_bytes,
        )


class Recorder:
    """An answer's way to the client (ASGI's `send`), with a copy for the cache. What is sent is not held up by it."""

    def __init__(self, send: Send, cache: AnswerCache, key: CacheKey) -> None:
        self._send = send
        self._cache = cache
        self._key = key
        self._headers: list[Header] = []
        self._body: bytearray | None = None  # None where it is not to be kept
        self._whole = False
        self._stream = False

    async def send(self, message: Message) -> None:
        """Send it on."""
        if message["type"] == "http.response.start":
            await self._send({**message, "headers": [*message["headers"], (CACHE_HEADER, b"miss")]})
            self._headers = list(message["headers"])
            names = {name for name, _ in self._headers}
            # Without SERVED_BY a stream has begun with words for somebody who waits, which are no part of the answer.
            if message["status"] == 200 and SERVED_BY in names and b"content-encoding" not in names:
                self._body = bytearray()
                self._stream = any(
                    name == b"content-type" and value.startswith(b"text/event-stream") for name, value in self._headers
                )
            return
        await self._send(message)
        if self._body is not None:
            some = message.get("body", b"")
            if len(self._body) + len(some) > self._cache.longest_bytes or not self._cache.take_room(len(some)):
                self._forget()
                return
            self._body += some
            self._whole = not message.get("more_body", False)

    def end(self, course: Course) -> None:
        """The course has ended: keep the answer if it is whole, good, and the asked model's own."""
        mine = course.status == 200 and course.error is None and course.model == self._key.model
        if mine and self._whole and self._body is not None:
            body = bytes(self._body)
            is_good = is_good_stream if self._stream else is_good_whole
            if is_good(self._key.route, body):
                self._cache.keep(self._key, self._headers, body)
        self._forget()

    def _forget(self) -> None:
        if self._body is not None:
            self._cache.give_back_room(len(self._body))
            self._body = None


def _headers_that_matter(question: Question) -> list[tuple[str, str]]:
    """Those of the request that the engine gets to see, and may answer otherwise for."""
    return sorted(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in end_to_end(question.headers, KEPT_FROM_ENGINE | IGNORED_HEADERS)
        if not name.startswith(IGNORED_PREFIXES)
    )


def _may_be_cached(question: Question) -> bool:
    ask = question.ask
    return (
        question.route in GENERATION_PATHS
        and len(question.body) <= LONGEST_BODY_BYTES
        and not is_form(question.content_type)
        and (ask.temperature == 0 or ask.seed is not None)
        and not any(
            name.lower() == b"cache-control" and any(word in value.lower() for word in (b"no-store", b"no-cache"))
            for name, value in question.headers
        )
    )


def _leans_on_state(route: str, body: Mapping[str, Any]) -> bool:
    """Whether the answer hangs on more than the request: what a server keeps of Responses, or looks up for them."""
    if route != RESPONSES_PATH:
        return False
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        return True
    looks_up = any(not isinstance(tool, Mapping) or tool.get("type") != "function" for tool in tools)
    return looks_up or any(body.get(field) for field in ("background", "previous_response_id", "conversation"))


def _points_elsewhere(body: Mapping[str, Any]) -> bool:
    """Whether it has the URL of a picture, a sound or a file, which may be another one under it by now."""
    left: list[Any] = [body]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if isinstance(inner, str):
                    if (name == "url" or name.endswith("_url")) and "://" in inner and not inner.startswith("data:"):
                        return True
                else:
                    left.append(inner)
        elif isinstance(value, list):
            left += value
    return False
