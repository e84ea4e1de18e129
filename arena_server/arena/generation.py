"""One model's answer to one conversation, asked of its engine and read as it comes.

vLLM's chat route streams OpenAI's `chat.completion.chunk` objects in server-sent events: text in
`choices[0].delta.content`, a reasoning model's thoughts in `delta.reasoning` (in older ones `reasoning_content`), and
with `stream_options.include_usage` the counts of tokens in a last one without choices; with its own
`continuous_usage_stats` also those so far in each.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from arena_server.clock import Clock
from arena_server.course import Course
from arena_server.engine.base import Engine, Response
from arena_server.engine.client import EngineLost, EngineUnreachable
from arena_server.engine.course_headers import course_headers
from arena_server.engine.failures import ended, refused, until_known_dead
from arena_server.engine.token_counts import token_count
from arena_server.errors import EngineDied, EngineRefused

logger = logging.getLogger(__name__)

CHAT_PATH = "/v1/chat/completions"
HEADERS = ((b"content-type", b"application/json"), (b"accept", b"text/event-stream"))
LONGEST_REFUSAL_BYTES = 64 << 10
LONGEST_EVENT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more of the answer: text, or what a reasoning model thinks before it."""

    text: str
    reasoning: bool = False


@dataclass(slots=True)
class Generation:
    """An answer as far as it has come. Times in seconds from when the engine was asked."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    first_s: float | None = None
    last_s: float = 0.0
    uncounted: int = 0  # pieces since the server last told the tokens

    @property
    def tokens(self) -> tuple[int, int]:
        """Of prompt and answer, so far. Where the server does not tell, each piece is a token until it does."""
        prompt, completion = (self.usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens"))
        return prompt, completion + self.uncounted

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens after the first one over the time they took; None under two tokens."""
        tokens = self.usage.get("completion_tokens", 0)
        if self.first_s is None or tokens < 2 or self.last_s <= self.first_s:
            return None
        return (tokens - 1) / (self.last_s - self.first_s)

    def add(self, piece: Piece, now_s: float) -> None:
        """Take what has come `now_s` after the question."""
        if self.first_s is None:
            self.first_s = now_s
        self.last_s = now_s
        if piece.reasoning:
            self.reasoning += piece.text
        else:
            self.text += piece.text


async def generate(
    engine: Engine, messages: Any, sampling: Mapping[str, Any], clock: Clock, generation: Generation, course: Course
) -> AsyncGenerator[Piece, None]:
    """Ask a leased engine, and yield the pieces of its answer, which `generation` adds up. `course` hears of the first.

    The answer is whole when it ends. Raises EngineDied if the engine goes away before, and EngineRefused with its own
    words if it does not take the request or breaks off. Closing the iterator ends the request.
    """
    # In each event, so that an answer that is left early is counted, too: vLLM's own word, which others might refuse.
    options = {"include_usage": True, **({} if engine.remote else {"continuous_usage_stats": True})}
    request = {**sampling, "model": engine.served_name, "messages": messages, "stream": True, "stream_options": options}
    asked = clock.now()
    try:
        client = engine.client
    except RuntimeError as e:  # it died since the lease was granted, and has been stopped already
        raise ended(engine.name) from e
    try:
        async with client.post(CHAT_PATH, [*HEADERS, *course_headers(course)], json.dumps(request).encode()) as answer:
            if answer.status != 200:
                raise refused(answer.status, (await answer.read())[:LONGEST_REFUSAL_BYTES])
            async for chunk in _events(answer):
                course.has_token()
                pieces = _pieces(chunk, generation)
                course.counts(*generation.tokens)
                for piece in pieces:
                    generation.add(piece, clock.now() - asked)
                    yield piece
    except (EngineUnreachable, EngineLost) as e:
        logger.warning("The engine of %s ended while it answered: %s", engine.name, e)
        await until_known_dead(engine)
        raise ended(engine.name) from e
    if generation.finish_reason is None:
        raise EngineDied(f"The answer of model `{engine.name}` broke off.")


async def _events(answer: Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of the stream. Raises EngineLost, EngineRefused."""
    rest = b""
    async for some in answer.chunks():
        *lines, rest = (rest + some).split(b"\n")
        if len(rest) > LONGEST_EVENT_BYTES:
            raise EngineRefused(f"The engine sent an event of over {LONGEST_EVENT_BYTES} bytes.")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield _event(data)


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = from_json(data)
    except ValueError as e:
        raise EngineRefused(f"The engine sent an event that is no JSON: {e}") from None
    if not isinstance(event, dict):
        raise EngineRefused("The engine sent an event that is no object.")
    if isinstance(event.get("error"), dict):
        raise EngineRefused(str(event["error"].get("message", "")), event["error"])
    return event


def _pieces(chunk: Mapping[str, Any], generation: Generation) -> list[Piece]:
    """What one chunk adds; the reason of the end and the counts of tokens go into `generation` themselves."""
    if told := isinstance(usage := chunk.get("usage"), dict):
        counts = {name: token_count(value) for name, value in usage.items() if name.endswith("_tokens")}
        generation.usage = {name: count for name, count in counts.items() if count is not None}
        generation.uncounted = 0
    pieces = []
    for choice in _objects(chunk.get("choices")):
        (delta,) = _objects([choice.get("delta")]) or [{}]
        if thought := _text(delta.get("reasoning")) or _text(delta.get("reasoning_content")):
            pieces.append(Piece(thought, reasoning=True))
        if text := _text(delta.get("content")):
            pieces.append(Piece(text))
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            generation.finish_reason = reason
    generation.uncounted += bool(pieces) and not told
    return pieces


def _objects(found: object) -> list[Mapping[str, Any]]:
    """The objects of a list. Nothing else of it, and nothing of what is none: servers differ."""
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _text(found: object) -> str:
    """A string, or a list of parts with a `text` (as some servers write a reasoning model's content)."""
    if isinstance(found, str):
        return found
    return "".join(text for part in _objects(found) if isinstance(text := part.get("text"), str))
