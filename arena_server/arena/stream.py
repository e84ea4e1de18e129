"""A stream of events: made by one task, read by another, which may leave at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Beyond this the maker waits for its reader, and the engines wait for the maker: a slow client costs no memory.
MOST_UNREAD = 32


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name, and what it says, in JSON's types."""

    kind: str
    data: Mapping[str, Any]


Emit = Callable[[str, Mapping[str, Any]], Awaitable[None]]


async def events_of(make: Callable[[Emit], Awaitable[None]]) -> AsyncGenerator[Event, None]:
    """What `make` emits, as it comes; raises what it raises. Closing the iterator ends `make`, wherever it is.

    `make` runs in a task of its own: a task group or a lease whose block is left by closing a generator at a `yield`
    would see GeneratorExit, with which the first cannot deal.
    """
    unread: asyncio.Queue[Event | Exception | None] = asyncio.Queue(MOST_UNREAD)

    async def emit(kind: str, data: Mapping[str, Any]) -> None:
        await unread.put(Event(kind, data))

    async def run() -> None:
        try:
            await make(emit)
        except Exception as e:  # whatever it is: the reader is to have it, and not to wait for ever
            await unread.put(e)
        else:
            await unread.put(None)

    task = asyncio.create_task(run())
    try:
        while (event := await unread.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event
    finally:
        task.cancel()
        await asyncio.wait([task])
