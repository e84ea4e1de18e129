"""What a command asks models: the prompt, wherever it comes from, and how to sample."""

from __future__ import annotations

import os
import sys
from typing import Any

from arena_server.errors import ArenaError

STDIN = "-"


class NoPrompt(ArenaError):
    """There is nothing to ask."""


def prompt_of(given: str | None) -> str:
    """The prompt: as given, or standard input to its end where that is `-`, or nothing. Raises NoPrompt.

    A terminal is read only where `-` asks for it: a command that waits in silence looks as if it hung.
    """
    if given is None and sys.stdin.isatty():
        raise NoPrompt("ask what? Give a prompt, or - to read it from standard input")
    if given is None or given == STDIN:
        text = sys.stdin.buffer.read().decode(errors="replace")
    else:
        text = os.fsencode(given).decode(errors="replace")  # bytes that were no text would be no JSON either
    if not text.strip():
        raise NoPrompt("the prompt is empty")
    return text


def opening(system: str | None) -> list[dict[str, str]]:
    """The messages that a conversation begins with."""
    return [] if system is None else [{"role": "system", "content": system}]


def user(text: str) -> dict[str, str]:
    """What a person says, as a message."""
    return {"role": "user", "content": text}


def sampling(*, temperature: float | None, max_tokens: int | None, seed: int | None) -> dict[str, Any]:
    """The fields that are set; the engine has defaults of its own for the others."""
    values = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    return {name: value for name, value in values.items() if value is not None}
