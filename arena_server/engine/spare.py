"""A connection to an engine that is made ahead of the request for which it is."""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arena_server.engine.client import EngineAnswer

logger = logging.getLogger(__name__)

AFTER_S = 0.003  # by then the first token has gone on, which is what this is for


class Spare:
    """At most one connection that nobody uses: a request to an engine at rest finds its way made already.

    It has never been used, so no server closes it for being idle: vLLM's (uvicorn) counts the seconds from the end of
    an answer. That the engine has ended is seen when it is taken, as it would be by connecting.
    """

    def __init__(self, connect: Callable[[], Awaitable[EngineAnswer]]) -> None:
        """`connect` makes one; it raises EngineUnreachable."""
        self._connect = connect
        self._ready: EngineAnswer | None = None
        self._making: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._closed = False

    def take(self) -> EngineAnswer | None:
        """It, if there is one that is good."""
        ready, self._ready = self._ready, None
        if ready is None:
            return None
        if _is_quiet(ready):
            return ready
        ready.abort()
        return None

    def renew(self) -> None:
        """Have one made, unless there is one."""
        if self._ready is None and self._making is None and not self._closed:
            loop = asyncio.get_running_loop()
            # In no request's name: what comes on it is for another than the one at whose time it was made.
            self._making = loop.call_later(AFTER_S, self._begin, context=Context())

    def close(self) -> None:
        """Have none from now on."""
        self._closed = True
        if self._making is not None:
            self._making.cancel()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.abort()

    def _begin(self) -> None:
        self._making = asyncio.get_running_loop().create_task(self._make())

    async def _make(self) -> None:
        from arena_server.engine.client import EngineUnreachable

        try:
            made = await self._connect()
        except EngineUnreachable as e:
            logger.debug("No connection ahead of the next request: %s", e)  # who asks next is told
        else:
            if self._closed:
                made.abort()
            else:
                self._ready = made
        finally:
            self._making = None


def _is_quiet(connection: EngineAnswer) -> bool:
    """Whether nothing has come on it: not even its end."""
    if (descriptor := connection.fileno()) < 0:
        return False  # the event loop has been told of its end already
    look = select.poll()
    look.register(descriptor, select.POLLIN)
    return not look.poll(0)
