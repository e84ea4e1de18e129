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

from arena_server.api.answer import HOP_BY_HOP, Answer, Header, Outcome, end_to_end
from arena_server.course import CLIENT_LEFT, Course
from arena_server.engine import course_headers
from arena_server.engine.client import EngineClient, EngineLost, EngineUnreachable
from arena_server.engine.failures import ended, until_known_dead
from arena_server.errors import ArenaError, EngineDied, ShuttingDown
from arena_server.pool.pool import Pool
from arena_server.pool.tickets import Notices

logger = logging.getLogger(__name__)

ATTEMPTS = 3
RESPONSES_PATH = "/v1/responses"
NOTICE_EVERY_S = 10.0

# Of no concern to the engine: what the client shows to be let in, and what describes this hop.
NOT_FOR_ENGINES = frozenset({b"host", b"content-length", b"expect", b"authorization", b"x-api-key", b"cookie"})
# Those of the course are put anew, as the daemon has them.
KEPT_FROM_ENGINE = HOP_BY_HOP | NOT_FOR_ENGINES | course_headers.NAMES


class RelayedResponse(Response):
    """A response that is fetched from the model's engine while it is sent."""

    def __init__(
        self, pool: Pool, course: Course, path: str, headers: Iterable[Header], body: bytes, wait_notice_s: float | None
    ) -> None:
        """`path` is the engine's route (with its query, if any); `headers` and `body` are the client's.

        `course` has begun, and is ended here.

        After `wait_notice_s` of waiting for the model the client is told of it, in a comment in the stream of events
        that it asked for; None if it asked for none.
        """
        super().__init__()
        self._pool = pool
        self._course = course
        self._model = course.model
        self._path = path
        self._request_headers = [*end_to_end(headers, KEPT_FROM_ENGINE), *course_headers.course_headers(course)]
        self._request_body = body
        self._wait_notice_s = wait_notice_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay (ASGI), giving up at once when the client goes."""
        task = asyncio.current_task()
        assert task is not None
        left = False
        outcome: Outcome = (500, None)  # a defect, unless it comes to something else

        async def watch() -> None:
            nonlocal left
            # The body has been read: the next message can only be the client's going.
            while (await receive())["type"] != "http.disconnect":
                pass
            left = True
            task.cancel()

        watcher = asyncio.create_task(watch())
        answer = Answer(send, self._path.partition("?")[0])
        try:
            await self._relay(answer)
            outcome = answer.outcome
        except ArenaError as e:
            outcome = (e.status, e.code)
            raise
        except asyncio.CancelledError:
            if not left or task.uncancel() > 0:
                outcome = (ShuttingDown.status, ShuttingDown.code)
                raise
            logger.debug("The client of a request to %s left", self._model)
        finally:
            watcher.cancel()
            self._course.end(*((CLIENT_LEFT, None) if left else outcome))

    async def _relay(self, answer: Answer) -> None:
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
            self._course.is_granted()
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
            good = upstream.status < 400  # an error's text is no token
            async for chunk in upstream.chunks():
                if good and self._course.first_token is None and self._has_token(chunk):
                    self._course.has_token()
                await answer.add(chunk)
        await answer.finish()

    def _has_token(self, chunk: bytes) -> bool:
        """Whether bytes of the answer can be a token's: a stream of Responses begins with events that are none."""
        return not (self._course.stream and self._course.route == RESPONSES_PATH) or b".delta\n" in chunk
