"""The relay: one request to one engine, and its answer back, bytes as they come.

Nothing is buffered, nothing rewritten. The lease on the engine ends when the last byte has left, or when
the client has gone; then the connection to the engine is closed, on which vLLM aborts the request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from fastapi import Response
from starlette.types import Receive, Scope, Send

from arena_server.api.answer import HOP_BY_HOP, Answer, Header, end_to_end
from arena_server.engine.client import EngineClient, EngineLost, EngineUnreachable
from arena_server.engine.failures import ended, until_known_dead
from arena_server.errors import ArenaError, EngineDied, ShuttingDown
from arena_server.pool.pool import Pool
from arena_server.pool.tickets import Notices

logger = logging.getLogger(__name__)

ATTEMPTS = 3
NOTICE_EVERY_S = 10.0

# Of no concern to the engine: what the client shows to be let in, and what describes this hop.
KEPT_FROM_ENGINE = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"authorization", b"x-api-key", b"cookie"}


class RelayedResponse(Response):
    """A response that is fetched from the model's engine while it is sent."""

    def __init__(
        self, pool: Pool, model: str, path: str, headers: Iterable[Header], body: bytes, wait_notice_s: float | None
    ) -> None:
        """`path` is the engine's route (with its query, if any); `headers` and `body` are the client's.

        After `wait_notice_s` of waiting for the model the client is told of it, in a comment in the stream of events
        that it asked for; None if it asked for none.
        """
        super().__init__()
        self._pool = pool
        self._model = model
        self._path = path
        self._request_headers = end_to_end(headers, KEPT_FROM_ENGINE)
        self._request_body = body
        self._wait_notice_s = wait_notice_s

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
        answer = Answer(send, self._path.partition("?")[0])
        notices = Notices(self._wait_notice_s, NOTICE_EVERY_S, answer.notice) if self._wait_notice_s else None
        try:
            for _ in range(ATTEMPTS):
                if await self._attempt(answer, notices):
                    return
            raise EngineDied(f"The engine of model `{self._model}` takes no requests.", retry_after_s=1)
        except ArenaError as e:
            await answer.fail(e)

    async def _attempt(self, answer: Answer, notices: Notices | None) -> bool:
        """Ask the engine once. False if it was gone before it took the request: then a new one may be asked."""
        async with self._pool.lease([self._model], notices) as lease:
            engine = lease.engines[self._model]
            try:
                await self._stream(engine.client, answer)
            except EngineUnreachable as e:
                # Its processes are dead and the pool is about to hear of it; what is asked then waits for a new load.
                logger.debug("The engine of %s is gone: %s", self._model, e)
                await until_known_dead(engine)
                return False
            except EngineLost as e:
                logger.warning("The engine of %s ended while it answered: %s", self._model, e)
                await until_known_dead(engine)
                raise ended(self._model) from e
            except asyncio.CancelledError:
                # At shutdown, after the grace. (To a client that left, this goes nowhere.)
                await answer.fail(ShuttingDown("The server is shutting down."))
                raise
        return True

    async def _stream(self, engine: EngineClient, answer: Answer) -> None:
        async with engine.post(self._path, self._request_headers, self._request_body) as upstream:
            await answer.start(upstream.status, upstream.headers)
            async for chunk in upstream.chunks():
                await answer.add(chunk)
        await answer.finish()
