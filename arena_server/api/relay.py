"""The relay: one request to one engine, and its answer back, bytes as they come.

Nothing is buffered, and nothing rewritten but the model's name on the way there and the counts of tokens, which are
asked for and taken out again, on the way back. The lease on the engine ends when the last byte has left, or when
the client has gone; then the connection to the engine is closed, on which vLLM aborts the request.

Where a model cannot answer, those of its `fallback` are asked in its place; never after an engine has taken the
request, as nobody knows what has come of that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from starlette.types import Receive, Scope, Send

from arena_server.api.answer import Answer, Outcome
from arena_server.api.http_exchange import ClientWatch, HttpExchange
from arena_server.api.question import Question
from arena_server.course import CLIENT_LEFT, Course
from arena_server.engine.base import Engine
from arena_server.engine.client import EngineLost, EngineUnreachable
from arena_server.engine.failures import ended, until_known_dead
from arena_server.errors import ArenaError, EngineDied, ModelUnavailable, ShuttingDown, WaitLimit
from arena_server.pool.pool import Pool
from arena_server.pool.tickets import Notices

logger = logging.getLogger(__name__)

ATTEMPTS = 3
RESPONSES_PATH = "/v1/responses"
NOTICE_EVERY_S = 10.0


class TakesNoRequests(EngineDied):
    """A model's engines were gone, one after the other, before they took the request."""

    def __init__(self, model: str) -> None:
        super().__init__(f"The engine of model `{model}` takes no requests.", retry_after_s=1)


# For these the next of `fallback` is asked: no engine has the request.
NOT_SERVED = (ModelUnavailable, WaitLimit, TakesNoRequests)


class Relay:
    """An answer (ASGI) that is fetched from the model's engine while it is sent."""

    def __init__(
        self,
        pool: Pool,
        course: Course,
        question: Question,
        fallbacks: Sequence[str],
        wait_notice_s: float | None,
        exchange: HttpExchange | None = None,
    ) -> None:
        """`course` has begun, with the model that was asked, and is ended here; `fallbacks` may answer in its place.

        After `wait_notice_s` of waiting for the model the client is told of it, in a comment in the stream of events
        that it asked for; None if it asked for none. Pieces of the answer leave by `exchange`, past ASGI's `send`.
        """
        self._pool = pool
        self._course = course
        self._question = question
        self._models = (course.model, *fallbacks)
        self._wait_notice_s = wait_notice_s
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay (ASGI), giving up at once when the client goes."""
        task = asyncio.current_task()
        assert task is not None
        left = False
        outcome: Outcome = (500, None)  # a defect, unless it comes to something else

        def leave() -> None:
            nonlocal left
            left = True
            task.cancel()

        answer = Answer(send, self._question.route, self._question.counter(), self._exchange)
        watch = ClientWatch(scope, receive, leave)
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
            logger.debug("The client of a request to %s left", self._course.model)
        finally:
            watch.end()
            self._course.end(*((CLIENT_LEFT, None) if left else outcome))

    async def _relay(self, answer: Answer) -> None:
        notices = Notices(self._wait_notice_s, NOTICE_EVERY_S, answer.notice) if self._wait_notice_s else None
        first: ArenaError | None = None  # of the model that was asked: what became of the others says less
        try:
            for model in self._models:
                try:
                    return await self._ask(model, answer, notices)
                except NOT_SERVED as e:
                    first = first or e
                    if model != self._models[-1]:
                        logger.warning("%s does not answer, and the next is asked in its place: %s", model, e)
            assert first is not None
            self._course.is_served_by(self._models[0])
            raise first
        except ArenaError as e:
            await answer.fail(e)

    async def _ask(self, model: str, answer: Answer, notices: Notices | None) -> None:
        """Have one model answer. Raises one of NOT_SERVED if none of its engines took the request."""
        if model != self._course.model:
            self._course.is_served_by(model)
            await answer.comment(f"{model} answers in place of {self._models[0]}")
        for _ in range(ATTEMPTS):
            if await self._attempt(model, answer, notices):
                return
        raise TakesNoRequests(model)

    async def _attempt(self, model: str, answer: Answer, notices: Notices | None) -> bool:
        """Ask the engine once. False if it was gone before it took the request: then a new one may be asked."""
        with await self._pool.acquire([model], notices, self._course.caller.share) as lease:
            self._course.is_granted()
            engine = lease.engines[model]
            try:
                await self._stream(engine, answer)
            except EngineUnreachable as e:
                # Its processes are dead and the pool is about to hear of it; what is asked then waits for a new load.
                logger.debug("The engine of %s is gone: %s", model, e)
                await until_known_dead(engine)
                return False
            except EngineLost as e:
                logger.warning("The engine of %s ended while it answered: %s", model, e)
                await until_known_dead(engine)
                raise ended(model) from e
            except asyncio.CancelledError:
                # At shutdown, after the grace. (To a client that left, this goes nowhere.)
                await answer.fail(ShuttingDown("The server is shutting down."))
                raise
        return True

    async def _stream(self, engine: Engine, answer: Answer) -> None:
        question, course = self._question, self._course
        course.tokens = answer.counter
        client = engine.client  # now: it may die while a large body is made ready, and then has none
        body = await question.body_for(engine)
        async with client.post(question.path, question.headers_for(course), body) as upstream:
            await answer.start(upstream.status, upstream.headers, engine.name)
            good = upstream.status < 400  # an error's text is no token

            def look(chunk: bytes) -> None:
                if course.first_token is None and good and self._has_token(chunk):
                    course.has_token()

            def take(chunk: bytes) -> bool:
                if not answer.add_at_once(chunk):
                    return False
                if course.first_token is None:
                    look(chunk)
                return True

            async for chunk in upstream.chunks(take):
                look(chunk)
                await answer.add(chunk)
        await answer.finish()

    def _has_token(self, chunk: bytes) -> bool:
        """Whether bytes of the answer can be a token's: a stream of Responses begins with events that are none."""
        return not (self._course.stream and self._course.route == RESPONSES_PATH) or b".delta\n" in chunk
