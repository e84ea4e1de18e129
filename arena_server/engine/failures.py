"""What an engine's failure is to whoever asked it."""

from __future__ import annotations

import asyncio
import contextlib

from pydantic_core import from_json

from arena_server.engine.base import Engine
from arena_server.errors import EngineDied, EngineRefused

# An engine's end is noticed within milliseconds; this is for a machine that is very busy.
HEARS_OF_DEATH_S = 2.0


def refused(status: int, body: bytes) -> EngineRefused:
    """The engine's answer that is none of what was asked for: its own `error` object, if it sent one."""
    try:
        parsed = from_json(body)
    except ValueError:
        parsed = None
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if isinstance(error, dict):
        return EngineRefused(str(error.get("message", "")), error, status=status)
    return EngineRefused(f"The engine answered with status {status} instead of a stream of events.", status=status)


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
