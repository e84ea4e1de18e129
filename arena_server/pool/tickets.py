"""Everybody who has asked the pool for models: who waits for an answer, and who has been given them."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from arena_server.clock import Clock
from arena_server.errors import ArenaError
from arena_server.pool.core import PoolCore
from arena_server.pool.events import Event, Release, Request
from arena_server.pool.outlook import Outlook, outlooks

OUTLOOK_KEPT_S = 0.25


@dataclass(frozen=True, slots=True)
class Notices:
    """How somebody who waits is told of it: first after `first_s` seconds, then every `then_s`."""

    first_s: float
    then_s: float
    tell: Callable[[Outlook], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ask:
    """Somebody's ticket, and the pool's answer to it."""

    ticket: int
    models: frozenset[str]
    answer: asyncio.Future[None]


class Tickets:
    """Numbers them for the core, and passes its answers on."""

    def __init__(self, core: PoolCore, clock: Clock, feed: Callable[[Event], None]) -> None:
        """`feed` gives the core an event; its answers come to `answer`."""
        self._core = core
        self._clock = clock
        self._feed = feed
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}  # by ticket, until answered
        self._open: set[int] = set()  # those that the core knows: waiting or granted
        self._outlooks: dict[int, Outlook] = {}  # as they were at `_outlooks_at`
        self._outlooks_at = -math.inf

    def at_once(self, models: frozenset[str]) -> int | None:
        """The ticket of who asks for models that are awake while nobody waits; None of others, who have to `ask`."""
        ticket = next(self._numbers)
        if not self._core.grant_at_once(ticket, models, self._clock.now()):
            return None
        self._open.add(ticket)
        return ticket

    def ask(self, models: frozenset[str], asker: str = "") -> Ask:
        """Ask for models; the answer may be there at once. Turns are shared out fairly between askers."""
        ticket = next(self._numbers)
        answer = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self._open.add(ticket)
        self._feed(Request(ticket, models, asker))
        return Ask(ticket, models, answer)

    async def granted(self, ask: Ask, notices: Notices | None = None) -> None:
        """Wait until they are granted; whoever asked has to give them back. Raises what the core refused it with.

        Cancelled, or if telling fails, it gives up the place in the queue.
        """
        ticket, answer = ask.ticket, ask.answer
        try:
            if notices is not None and not answer.done():
                await self._tell(ticket, answer, notices)
            await answer
        except BaseException:
            # Cancelled (waiting, or granted or refused in the same turn of the loop), or telling failed.
            if answer.done() and not answer.cancelled():
                answer.exception()  # nobody else would retrieve it, of which asyncio complains
            self._give_up(ticket)
            raise
        finally:
            self._waiting.pop(ticket, None)

    def refused_at_once(self, ask: Ask) -> ArenaError | None:
        """What the core refused it with already, if it has: then that was all."""
        error = ask.answer.exception() if ask.answer.done() else None
        if error is None:
            return None
        del self._waiting[ask.ticket]
        assert isinstance(error, ArenaError)
        return error

    def answer(self, ticket: int, error: ArenaError | None) -> None:
        """The core grants it, or refuses it for this error."""
        if error is not None:
            self._open.remove(ticket)
        answer = self._waiting[ticket]
        if answer.done():
            return  # cancelled; its Release is on the way
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def give_back(self, ticket: int, models: frozenset[str]) -> None:
        """Some of what was granted is done with; all of them one after the other end the ticket."""
        self._feed(Release(ticket, models))
        if ticket not in self._core.leases:
            self._open.discard(ticket)

    def _give_up(self, ticket: int) -> None:
        if ticket in self._open:
            self._open.remove(ticket)
            self._feed(Release(ticket))

    async def _tell(self, ticket: int, answer: asyncio.Future[None], notices: Notices) -> None:
        wait_s = notices.first_s
        while True:
            await asyncio.wait([answer], timeout=wait_s)
            if answer.done():
                return
            await notices.tell(self._outlook_of(ticket))
            wait_s = notices.then_s

    def _outlook_of(self, ticket: int) -> Outlook:
        """What one who waits can expect, as of a moment ago.

        Many may wait and ask each second, and an outlook is made of the whole queue: they share it.
        """
        now = self._clock.now()
        if ticket not in self._outlooks or now - self._outlooks_at > OUTLOOK_KEPT_S:
            self._outlooks, self._outlooks_at = {o.ticket: o for o in outlooks(self._core, now)}, now
        return self._outlooks[ticket]
