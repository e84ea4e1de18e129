"""Running one turn of a blind battle: both models are asked, and their answers let out side by side."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack, aclosing

from arena_server.arena.battle import LETTERS, Battle, CutShort, Turn
from arena_server.arena.generation import generate
from arena_server.arena.pace import Pace
from arena_server.arena.side_course import ends_with
from arena_server.arena.stream import Emit
from arena_server.clock import Clock
from arena_server.course import Course, Courses
from arena_server.errors import ArenaError, EngineRefused, QueueFull, ShuttingDown, WaitLimit
from arena_server.pool.lease import Lease
from arena_server.pool.outlook import Outlook
from arena_server.pool.pool import Pool
from arena_server.pool.residency import COMING_UP
from arena_server.pool.tickets import Notices
from arena_server.request_id import origin

logger = logging.getLogger(__name__)

ROUTE = "/arena/battle"  # of the sides' courses
STATUS_EVERY_S = 1.0
TICK_S = 0.05


class SideFailed(ArenaError):
    """A side of a battle gave no whole answer. Its text names neither the model nor the engine's own words."""

    status = 502
    code = "side_failed"

    def __init__(self, letter: str, message: str) -> None:
        super().__init__(message)
        self.letter = letter


class Unavailable(ArenaError):
    """The models of a battle cannot be had now. Its text names neither."""

    status = 503
    kind = "service_unavailable_error"
    code = "battle_unavailable"


class TurnRun:
    """One turn while it runs."""

    def __init__(self, pool: Pool, clock: Clock, battle: Battle, turn: Turn, pace: Pace, courses: Courses) -> None:
        """`turn` is the last of `battle`."""
        self._pool = pool
        self._clock = clock
        self._battle = battle
        self._turn = turn
        self._pace = pace
        self._courses = courses
        self._began = clock.now()

    async def run(self, emit: Emit) -> None:
        """Emit the turn's events but the last one. Raises SideFailed and Unavailable, which any client may see."""
        with ExitStack() as stack:
            courses = {letter: stack.enter_context(ends_with(self._course(letter), self._pool)) for letter in LETTERS}
            await self._ask(courses, emit)

    def _course(self, letter: str) -> Course:
        asker, name = origin(), self._battle.models[letter].name
        return self._courses.begin(asker, ROUTE, name, stream=True, request_id=asker.of_side(letter))

    async def _ask(self, courses: Mapping[str, Course], emit: Emit) -> None:
        battle = self._battle
        try:
            notices, share = Notices(0.0, STATUS_EVERY_S, lambda o: self._wait(o, emit)), origin().caller.share
            lease = await self._pool.acquire(battle.names, notices, share)
        except ArenaError as e:
            for course in courses.values():
                course.end(e.status, e.code)  # by what it was, which the client is not told
            logger.warning("Battle %s of %s: %s", battle.id, " and ".join(battle.names), e)
            raise _unavailable(e) from e
        with lease:
            for course in courses.values():
                course.is_granted()
            await emit("status", {"phase": "ready", "eta_s": None})
            failed: list[SideFailed] = []
            try:
                async with asyncio.TaskGroup() as group:
                    for letter in LETTERS:
                        group.create_task(self._answer(letter, lease, courses[letter]))
                    group.create_task(self._let_out(emit))
            except* SideFailed as failures:
                failed = [e for e in failures.exceptions if isinstance(e, SideFailed)]
            if failed:  # the other one's engine is free by now, too: its answer is of no use any more
                raise failed[0]

    async def _wait(self, outlook: Outlook, emit: Emit) -> None:
        coming = any(self._pool.where(name).residency in COMING_UP for name in self._battle.names)
        await emit("status", {"phase": "loading" if coming else "queued", "eta_s": math.ceil(outlook.eta_s)})

    async def _answer(self, letter: str, lease: Lease, course: Course) -> None:
        """Have one side answer, into the pace."""
        name, answer = self._battle.models[letter].name, self._turn.answers[letter]
        answer.waited_s = self._clock.now() - self._began
        messages = self._battle.conversation(letter)
        sampling = self._battle.sampling
        try:
            engine = lease.engines[name]
            generated = generate(engine, messages, sampling, self._clock, answer.generation, course)
            with ends_with(course, self._pool):
                async with aclosing(generated) as pieces:
                    async for piece in pieces:
                        if not piece.reasoning:
                            self._pace.add(letter, piece.text, self._clock.now())
            answer.check_whole(sampling.get("max_tokens"))
        except ArenaError as e:
            # An engine's own words may be the prompt's.
            why = f"refused with status {e.status}" if isinstance(e, EngineRefused) else e
            logger.warning("Battle %s: side %s, %s: %s", self._battle.id, letter, name, why)
            raise SideFailed(letter, _what_failed(letter, e)) from e
        finally:
            lease.release(name)
        self._pace.complete(letter, self._clock.now())

    async def _let_out(self, emit: Emit) -> None:
        """Emit the texts at an even rhythm: when the engines' tokens come must not be seen."""
        done: set[str] = set()
        while True:
            for letter, text in self._pace.step(self._clock.now()).items():
                self._turn.answers[letter].shown += text
                await emit("delta", {"side": letter, "text": text})
            for letter in LETTERS:
                if letter not in done and self._pace.ended(letter):
                    done.add(letter)
                    self._turn.answers[letter].complete = True
                    await emit("done", {"side": letter, "finish_reason": self._turn.answers[letter].finish_reason})
            if len(done) == len(LETTERS):
                return
            await asyncio.sleep(TICK_S)


def _unavailable(error: ArenaError) -> ArenaError:
    """What went wrong before the models were there, without their names."""
    if isinstance(error, ShuttingDown):
        return error
    if isinstance(error, QueueFull):
        return QueueFull("Too many requests wait for models already.", retry_after_s=error.retry_after_s)
    if isinstance(error, WaitLimit):
        return WaitLimit("There was no room for both models in time.", retry_after_s=error.retry_after_s)
    return Unavailable("One of the two models cannot be had at the moment. Begin another battle.", retry_after_s=1)


def _what_failed(letter: str, error: ArenaError) -> str:
    if isinstance(error, CutShort):
        return f"Side {letter} was cut short: the conversation may be too long for it."
    if isinstance(error, EngineRefused) and error.status < 500:
        return f"Side {letter} does not take this conversation: it may be too long for it."
    return f"Side {letter} failed while it answered."
