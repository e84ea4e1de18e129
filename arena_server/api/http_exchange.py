"""One request and its answer on a client's connection, for those who deal with it directly, past ASGI.

ASGI has a coroutine called for each piece of an answer, through everything that stands around the application, and a
task that waits for the client's going. For a relayed token that is most of what it costs, and for a short answer much
of it. The daemon's own server offers this beside them, as an extension in the scope (ASGI 3.0, "Extensions").

What stands around the application may change the head of an answer, then, but not what follows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Receive, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

EXTENSION = "arena_server"
EXCHANGE = "exchange"


class HttpExchange:
    """What the server knows of one request; made by it."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._left: Callable[[], None] | None = None

    @property
    def takes_body(self) -> bool:
        """Whether the next piece of the body may be written now: its head was sent, without a length, and the client
        keeps up. Else it is ASGI's `send` that waits, or refuses.
        """
        cycle = self._cycle
        return (
            cycle.chunked_encoding is True
            and not cycle.response_complete
            and not cycle.disconnected
            and not cycle.flow.write_paused
        )

    @property
    def has_body(self) -> bool:
        """Whether all of the request's body has come: nobody has to wait for it."""
        return not self._cycle.more_body

    def write(self, some: bytes) -> None:
        """Write a piece of the body, which is not empty (RFC 9112, 7.1); only if `takes_body`."""
        self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(some), some))

    def when_left(self, then: Callable[[], None] | None) -> None:
        """Call `then` once, when the client goes before its answer is whole; at once, if it has gone. None: nothing."""
        self._left = then
        if then is None:
            return
        if self._cycle.disconnected:
            self.left()
        else:
            self._cycle.flow.resume_reading()  # what is not read from does not tell that it is gone

    def left(self) -> None:
        """The client has gone (for the server)."""
        then, self._left = self._left, None
        if then is not None:
            then()


def extension(cycle: RequestResponseCycle) -> dict[str, dict[object, object]]:
    """What a request's scope has under `extensions`."""
    return {EXTENSION: {EXCHANGE: HttpExchange(cycle)}}


def exchange_of(scope: Mapping[str, Any]) -> HttpExchange | None:
    """Of a request, by its ASGI scope; None under another server."""
    found = scope.get("extensions", {}).get(EXTENSION, {}).get(EXCHANGE)
    return found if isinstance(found, HttpExchange) else None


class ClientWatch:
    """Calls `then` once, when the client goes, until `end`. The request's body has been read."""

    def __init__(self, scope: Scope, receive: Receive, then: Callable[[], None]) -> None:
        self._then = then
        self._exchange = exchange_of(scope)
        self._waiting: asyncio.Task[None] | None = None
        if self._exchange is not None:
            self._exchange.when_left(then)
        else:
            self._waiting = asyncio.create_task(self._wait(receive))

    def end(self) -> None:
        """It may go."""
        if self._exchange is not None:
            self._exchange.when_left(None)
        if self._waiting is not None:
            self._waiting.cancel()

    async def _wait(self, receive: Receive) -> None:
        # The body has been read: the next message can only be the client's going.
        while (await receive())["type"] != "http.disconnect":
            pass
        self._then()
