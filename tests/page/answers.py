"""What fake engines say to the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.support.replies import DONE, Received, Reply, data, reply_to, stream


def saying(pieces: Sequence[str], finish_reason: str = "stop", thoughts: str = "") -> Callable[[Received], Reply]:
    """A chat answer in these pieces, each a chunk that the engine's gate can hold, as vLLM streams it."""

    def event(**rest: Any) -> bytes:
        return data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", **rest})

    def choice(delta: dict[str, str], end: str | None = None) -> bytes:
        return event(choices=[{"index": 0, "delta": delta, "finish_reason": end}])

    def reply(request: Received) -> Reply:
        if request.path != "/v1/chat/completions":
            return reply_to(request)
        usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "total_tokens": 7 + len(pieces)}
        texts = [choice({"reasoning": thoughts})] if thoughts else []
        texts += [choice({"content": piece}) for piece in pieces]
        return stream([*texts, choice({}, finish_reason), event(choices=[], usage=usage), DONE])

    return reply


def cut(text: str, length: int) -> list[str]:
    """The text in pieces of that length."""
    return [text[i : i + length] for i in range(0, len(text), length)]
