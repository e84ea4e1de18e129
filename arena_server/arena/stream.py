"""A stream of events: made by one task, read by another, which may leave at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

# Beyond this the maker waits for its reader.
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
    gone = False

    async def emit(kind: str, data: Mapping[str, Any]) -> None:
        # A task group whose part fails in the very moment of the cancellation swallows that (before Python 3.13).
        if gone:
            raise asyncio.CancelledError
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
        gone = True
        task.cancel()
        # Shielded, as whoever serves the response cancels again and again, and what is leased is to be back by then.
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
