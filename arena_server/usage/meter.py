"""Counts what requests use, while they are answered, and has it written down every second.

Whatever happens to the daemon, no more is lost than what was used since the last time. What counts is in docs/usage.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from arena_server.caller import Caller
from arena_server.clock import Clock
from arena_server.course import NO_TOKENS, Course
from arena_server.errors import ArenaError
from arena_server.store.usage_record import ANONYMOUS, Place, Used
from arena_server.usage.ledger import Ledger
from arena_server.usage.price import Prices

logger = logging.getLogger(__name__)

FLUSH_EVERY_S = 1.0


@dataclass(slots=True)
class _Metered:
    """A course, and what of it has been counted."""

    course: Course
    model: str  # whose prices these are
    prices: Prices
    counted: bool = False  # as a request
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Batch:
    number: int
    moment: datetime
    used: Mapping[Place, Used]


class UsageMeter:
    """Hears of courses (a `Listener`)."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        wall: Callable[[], datetime],
        prices: Callable[[str], Prices | None],
        take: Callable[[Caller, int], None],
    ) -> None:
        """`wall` is the time of day, in UTC; `prices` those of a model now, None if there is no such model any more, on
        which what still comes costs as before; `take` is told whose tokens they are.

        `take` may be told of less than 0: more was counted for an answer than its server says in the end.
        """
        self._ledger = ledger
        self._clock = clock
        self._wall = wall
        self._prices = prices
        self._take = take
        self._running: dict[int, _Metered] = {}  # by the course's identity
        self._new: dict[Place, Used] = {}
        self._batch: _Batch | None = None  # which the store has not confirmed
        self._batches = 0
        self._writing = asyncio.Lock()
        self._failing = False

    def began(self, course: Course) -> None:
        """See `Listener`."""
        # Prices at once: the model may be removed before anything is counted, and its answer would be free.
        self._running[id(course)] = _Metered(course, course.model, self._prices(course.model) or Prices())

    def ended(self, course: Course) -> None:
        """See `Listener`."""
        metered = self._running.pop(id(course), None)
        if metered is not None:
            self._count(metered)

    async def flush(self) -> None:
        """Have all written that was used until now. Raises StoreUnavailable; then nothing is lost."""
        async with self._writing:
            self._count_running()
            if self._batch is not None:  # as it was: it may have been written although the store failed
                await self._write(self._batch)
                self._count_running()  # what came meanwhile
            if self._new:
                self._batches += 1
                self._batch, self._new = _Batch(self._batches, self._wall(), self._new), {}
                await self._write(self._batch)

    async def run(self) -> None:
        """Count and flush every second, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_counting())
            tasks.create_task(self._keep_writing())

    async def close(self) -> None:
        """Write the last of it, when nothing is answered any more; if that fails, the log says what is lost."""
        await self._try()
        parts = [self._new] if self._batch is None else [self._batch.used, self._new]
        lost = sum((used for part in parts for used in part.values()), Used())
        if lost != Used():
            logger.error("Usage that could not be written is lost: %s", lost)

    async def _keep_counting(self) -> None:
        """Apart from the writing: limits hold also while a store takes a minute to fail."""
        failing = False
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            try:
                self._count_running()
                failing = False
            except Exception:  # a defect; without this loop no running answer would be counted against its limits
                if not failing:
                    logger.exception("Usage cannot be counted")
                failing = True

    async def _keep_writing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await self._try()

    async def _write(self, batch: _Batch) -> None:
        await self._ledger.add(batch.number, batch.moment, batch.used)
        self._batch = None

    async def _try(self) -> None:
        try:
            await self.flush()
        except ArenaError as e:
            if not self._failing:
                logger.warning("Usage is kept in memory until it can be written: %s", e)
            self._failing = True
        except Exception:  # a driver's own, or a defect: it must not be the end of all writing
            if not self._failing:
                logger.exception("Usage is kept in memory until it can be written")
            self._failing = True
        else:
            if self._failing:
                logger.info("Usage is written again")
            self._failing = False

    def _count_running(self) -> None:
        for metered in self._running.values():
            self._count(metered)

    def _count(self, metered: _Metered) -> None:
        """Add what has come since the last time."""
        course = metered.course
        found = self._prices(course.model)
        if found is not None or metered.model != course.model:  # another answers in its place
            metered.model, metered.prices = course.model, found or Prices()
        tokens = NO_TOKENS if course.cached else course.tokens
        prompt, completion = tokens.prompt_tokens, tokens.completion_tokens
        # Until something of the answer is there, another model may have to give it.
        if not (course.first_token is not None or prompt or completion or course.cached or course.ended is not None):
            return
        if course.granted is None and not course.cached:
            return  # it has reached no model
        now = self._clock.now() if course.ended is None else course.ended
        seconds = now - course.granted if course.granted is not None else 0.0
        more_prompt, more_completion = prompt - metered.prompt_tokens, completion - metered.completion_tokens
        more_s = max(seconds - metered.seconds, 0.0)
        used = Used(
            requests=int(not metered.counted),
            prompt_tokens=more_prompt,
            completion_tokens=more_completion,
            seconds=more_s,
            cost_pico=metered.prices.cost_pico(more_prompt, more_completion),
        )
        metered.counted = True
        metered.prompt_tokens, metered.completion_tokens = prompt, completion
        metered.seconds += more_s
        if used != Used():
            self._add(course, used)
        if more_prompt + more_completion:
            self._take(course.caller, more_prompt + more_completion)

    def _add(self, course: Course, used: Used) -> None:
        place = Place(self._wall().date(), course.caller.key or ANONYMOUS, course.model)
        self._new[place] = self._new.get(place, Used()) + used
