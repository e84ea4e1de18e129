"""The relay: one request to one engine, and its answer back, bytes as they come.

Nothing is buffered, nothing rewritten. The lease on the engine ends when the last byte has left, or when
the client has gone; then the connection to the engine is closed, on which vLLM aborts the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from fastapi import Response
from starlette.types import Receive, Scope, Send

from arena_server.api.errors import error_event
from arena_server.engine.base import Engine
from arena_server.engine.client import EngineClient, EngineLost, EngineUnreachable
from arena_server.errors import ArenaError, EngineDied, ShuttingDown
from arena_server.pool.pool import Pool

logger = logging.getLogger(__name__)

# An engine's end is noticed within milliseconds; this is for a machine that is very busy.
HEARS_OF_DEATH_S = 2.0
ATTEMPTS = 3
LONGEST_LINE_BYTES = 1 << 20

# RFC 9110, 7.6.1: these speak of one connection, not of the message.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
# Of no concern to the engine: what the client shows to be let in, and what describes this hop.
KEPT_FROM_ENGINE = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"authorization", b"x-api-key", b"cookie"}
# The daemon's server puts its own.
KEPT_FROM_CLIENT = HOP_BY_HOP | {b"server", b"date"}

Header = tuple[bytes, bytes]


def end_to_end(headers: Iterable[Header], left_out: frozenset[bytes]) -> list[Header]:
    """The headers that travel on: without `left_out` and those that Connection names. Names come in lower case."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in pairs if name == b"connection" for token in value.split(b",")}
    return [(name, value) for name, value in pairs if name not in left_out and name not in named]


class RelayedResponse(Response):
    """A response that is fetched from the model's engine while it is sent."""

    def __init__(self, pool: Pool, model: str, path: str, headers: Iterable[Header], body: bytes) -> None:
        """`path` is the engine's route (with its query, if any); `headers` and `body` are the client's."""
        super().__init__()
        self._pool = pool
        self._model = model
        self._path = path
        self._request_headers = end_to_end(headers, KEPT_FROM_ENGINE)
        self._request_body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay (ASGI), giving up at once when the client goes."""
        task = asyncio.current_task()
        assert task is not None
        left = False

        async def watch() -> None:
            nonlocal left
            # The body has been read: the next message can only be the client's going.
            while (await receive())["type"] != "http.disconnect":
                pass
            left = True
            task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await self._relay(send)
        except asyncio.CancelledError:
            if not left or task.uncancel() > 0:
                raise
            logger.debug("The client of a request to %s left", self._model)
        finally:
            watcher.cancel()

    async def _relay(self, send: Send) -> None:
        answer = _Answer(send, self._path.partition("?")[0])
        for _ in range(ATTEMPTS):
            if await self._attempt(answer):
                return
        raise EngineDied(f"The engine of model `{self._model}` takes no requests.", retry_after_s=1)

    async def _attempt(self, answer: _Answer) -> bool:
        """Ask the engine once. False if it was gone before it took the request: then a new one may be asked."""
        async with self._pool.lease([self._model]) as lease:
            engine = lease.engines[self._model]
            try:
                await self._stream(engine.client, answer)
            except EngineUnreachable as e:
                # Its processes are dead and the pool is about to hear of it; what is asked then waits for a new load.
                logger.debug("The engine of %s is gone: %s", self._model, e)
                await _until_known_dead(engine)
                return False
            except EngineLost as e:
                logger.warning("The engine of %s ended while it answered: %s", self._model, e)
                # Who is told of it may ask again at once, and must not be sent to the dying engine.
                await _until_known_dead(engine)
                message = (
                    f"The engine of model `{self._model}` ended while it answered. The next request starts it again."
                )
                await answer.fail(EngineDied(message, retry_after_s=1))
            except asyncio.CancelledError:
                # At shutdown, after the grace. (To a client that left, this goes nowhere.)
                await answer.fail(ShuttingDown("The server is shutting down."))
                raise
        return True

    async def _stream(self, engine: EngineClient, answer: _Answer) -> None:
        async with engine.post(self._path, self._request_headers, self._request_body) as upstream:
            await answer.start(upstream.status, upstream.headers)
            async for chunk in upstream.chunks():
                await answer.add(chunk)
        await answer.finish()


async def _until_known_dead(engine: Engine) -> None:
    """Wait until the pool knows of the engine's end, which its connections show some milliseconds earlier."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEARS_OF_DEATH_S):
            await engine.died()


class _Answer:
    """What the client has of its answer so far."""

    def __init__(self, send: Send, route: str) -> None:
        self._send = send
        self._route = route
        self._started = False
        self._stream = False
        self._rest = b""

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        kept = end_to_end(headers, KEPT_FROM_CLIENT)
        self._stream = any(n == b"content-type" and v.startswith(b"text/event-stream") for n, v in kept)
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": kept})

    async def add(self, chunk: bytes) -> None:
        """Send on what has come.

        In a stream of events the beginning of a line waits for the rest of it (the engine writes whole lines, so this
        is rare): if the engine dies there, half a line and then an error event would be neither to the client.
        """
        if self._stream and (self._rest or not chunk.endswith(b"\n")):
            lines, newline, rest = (self._rest + chunk).rpartition(b"\n")
            if len(rest) > LONGEST_LINE_BYTES:
                lines, newline, rest = lines + newline + rest, b"", b""
            chunk, self._rest = lines + newline, rest
        if chunk:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self) -> None:
        await self._send({"type": "http.response.body", "body": self._rest, "more_body": False})

    async def fail(self, error: ArenaError) -> None:
        """End with an error: as the response if nothing has left yet, as an event in a stream.

        Any other answer that has begun is left incomplete, on which the server closes the connection: the client sees
        that it is cut, and cannot take it for whole.
        """
        if not self._started:
            raise error
        if self._stream:
            self._rest = b""
            await self.add(error_event(error, self._route))
            await self.finish()
