"""What an engine's failure is to whoever asked it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from pydantic_core import from_json

from arena_server.engine.base import Engine
from arena_server.errors import EngineDied, EngineRefused

# An engine's end is noticed within milliseconds; this is for a machine that is very busy.
HEARS_OF_DEATH_S = 2.0


def refused(status: int, body: bytes) -> EngineRefused:
    """The engine's answer that is none of what was asked for: its own `error` object, if it sent one."""
    error = error_in(body)
    if error is not None:
        return EngineRefused(str(error.get("message", "")), error, status=status)
    return EngineRefused(f"The engine answered with status {status} instead of a stream of events.", status=status)


def error_in(body: bytes) -> dict[str, Any] | None:
    """The `error` object of an engine's answer, if it has one that can be written as JSON again (`NaN` cannot)."""
    try:
        parsed = from_json(body, allow_inf_nan=False)
        error = parsed.get("error") if isinstance(parsed, dict) else None
        json.dumps(error, allow_nan=False)  # 1e999 is read as infinite, all the same
    except ValueError:
        return None
    return error if isinstance(error, dict) else None


def ended(model: str) -> EngineDied:
    """The engine of `model` is gone in the middle of an answer."""
    message = f"The engine of model `{model}` ended while it answered. The next request starts it again."
    return EngineDied(message, retry_after_s=1)


async def until_known_dead(engine: Engine) -> None:
    """Wait until the pool knows of the engine's end, which its connections show some milliseconds earlier.

    Who is told of it may ask again at once, and must not be sent to the dying engine.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEARS_OF_DEATH_S):
            await engine.died()
