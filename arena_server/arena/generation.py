"""One model's answer to one conversation, asked of its engine and read as it comes.

vLLM's chat route streams OpenAI's `chat.completion.chunk` objects in server-sent events: text in
`choices[0].delta.content`, a reasoning model's thoughts in `delta.reasoning` (in older ones `reasoning_content`), and
with `stream_options.include_usage` the counts of tokens in a last one without choices.
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
from arena_server.engine.base import Engine
from arena_server.engine.client import EngineAnswer, EngineLost, EngineUnreachable
from arena_server.engine.course_headers import course_headers
from arena_server.engine.failures import ended, refused, until_known_dead
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
    options = {"include_usage": True}
    request = {**sampling, "model": engine.name, "messages": messages, "stream": True, "stream_options": options}
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
                for piece in _pieces(chunk, generation):
                    generation.add(piece, clock.now() - asked)
                    yield piece
    except (EngineUnreachable, EngineLost) as e:
        logger.warning("The engine of %s ended while it answered: %s", engine.name, e)
        await until_known_dead(engine)
        raise ended(engine.name) from e
    if generation.finish_reason is None:
        raise EngineDied(f"The answer of model `{engine.name}` broke off.")


async def _events(answer: EngineAnswer) -> AsyncIterator[dict[str, Any]]:
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
    if isinstance(usage := chunk.get("usage"), dict):
        generation.usage = {k: v for k, v in usage.items() if k.endswith("_tokens") and isinstance(v, int)}
    pieces = []
    for choice in chunk.get("choices") or []:
        delta = choice.get("delta") or {}
        if thought := delta.get("reasoning") or delta.get("reasoning_content"):
            pieces.append(Piece(thought, reasoning=True))
        if text := delta.get("content"):
            pieces.append(Piece(text))
        generation.finish_reason = choice.get("finish_reason") or generation.finish_reason
    return pieces
