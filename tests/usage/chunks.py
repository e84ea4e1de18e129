"""Streams as vLLM 0.32 writes them: field for field (vllm/entrypoints/openai/*/serving.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795255560, "model": "llama"}
FINGERPRINT = "vllm-0.32.0-42aaffcd"
DONE = b"data: [DONE]\n\n"


def event(fields: dict[str, Any]) -> bytes:
    """One server-sent event, in vLLM's (pydantic's) spelling of JSON."""
    return b"data: " + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def usage(prompt: int, completion: int, **details: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion, **details}


@dataclass(frozen=True)
class Said:
    """What vLLM was asked to tell."""

    include_usage: bool = False
    continuous: bool = False
    fingerprint: str | None = FINGERPRINT
    details: bool = False  # as a server with --enable-reasoning-tokens-details tells them


def chat_stream(texts: Sequence[Sequence[str]], prompt: int, said: Said) -> list[bytes]:
    """The events of an answer with a choice for each of `texts`, whose pieces (a token each) come in turn."""
    events = [
        event({**HEAD, "choices": [_choice(i, {"role": "assistant", "content": ""}, None)], **_told(prompt, 0, said)})
        for i in range(len(texts))
    ]
    for n in range(max(map(len, texts))):
        for i, pieces in enumerate(texts):
            if n >= len(pieces):
                continue
            reason = "stop" if n == len(pieces) - 1 else None
            fields = {**HEAD, "choices": [_choice(i, {"content": pieces[n]}, reason)], **_told(prompt, n + 1, said)}
            if reason and not said.include_usage and said.fingerprint:
                fields["system_fingerprint"] = said.fingerprint
            events.append(event(fields))
    if said.include_usage:
        total = usage(prompt, sum(map(len, texts)))
        last = {**HEAD, "choices": [], "usage": total}
        events.append(event({**last, "system_fingerprint": said.fingerprint} if said.fingerprint else last))
    return [*events, DONE]


def _choice(index: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    last = {"stop_reason": None} if reason else {}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason, **last, "token_ids": None}


def _told(prompt: int, completion: int, said: Said) -> dict[str, Any]:
    if not (said.include_usage and said.continuous):
        return {}
    details = {"reasoning_tokens": 0} if said.details else None
    return {"usage": usage(prompt, completion, completion_tokens_details=details)}


def completion_stream(texts: Sequence[Sequence[str]], prompts: Sequence[int], n: int, said: Said) -> list[bytes]:
    """As `chat_stream`, of the completions route: `n` choices for each prompt, in order."""
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1795255560, "model": "llama"}
    events = []
    for i, pieces in enumerate(texts):
        for k, piece in enumerate(pieces, 1):
            reason = "length" if k == len(pieces) else None
            choice = {"index": i, "text": piece, "logprobs": None, "finish_reason": reason, "stop_reason": None}
            fields = {**head, "choices": [choice], **_told(prompts[i // n], k, said)}
            if reason and not said.include_usage and said.fingerprint:
                fields["system_fingerprint"] = said.fingerprint
            events.append(event(fields))
    if said.include_usage:
        last = {**head, "choices": [], "usage": usage(sum(prompts), sum(map(len, texts)))}
        events.append(event({**last, "system_fingerprint": said.fingerprint} if said.fingerprint else last))
    return [*events, DONE]
