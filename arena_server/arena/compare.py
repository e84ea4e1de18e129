"""Several models answer at once, under their names.

All are leased in one piece. Models that can never be awake together answer one after the other, those first that are
awake already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

from arena_server.arena.generation import Generation, generate
from arena_server.arena.side_course import ends_with
from arena_server.arena.stream import Emit
from arena_server.clock import Clock
from arena_server.course import Course, Courses
from arena_server.errors import ArenaError, ModelsDoNotFitTogether
from arena_server.pool.lease import Lease
from arena_server.pool.outlook import Outlook
from arena_server.pool.pool import Pool
from arena_server.pool.residency import COMING_UP, Residency
from arena_server.pool.tickets import Notices
from arena_server.request_id import origin

ROUTE = "/arena/compare"  # of the sides' courses
STATUS_EVERY_S = 1.0


@dataclass(slots=True)
class Side:
    """One model's part. `waited_s` is None until it was awake."""

    letter: str
    model: str
    messages: Any
    waited_s: float | None = None
    answer: Generation = field(default_factory=Generation)
    error: ArenaError | None = None

    def done(self) -> dict[str, Any]:
        """How it went: what `done` tells of a side."""
        return {
            "side": self.letter,
            "finish_reason": self.answer.finish_reason,
            "usage": self.answer.usage,
            "waited_s": self.waited_s,
            "ttft_s": self.answer.first_s,
            "tokens_per_s": self.answer.tokens_per_s,
        }


class Comparison:
    """One comparison. `sides` are its result once it has run."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        sides: Sequence[Side],
        sampling: Mapping[str, Any],
        courses: Courses,
        *,
        require: bool,
    ) -> None:
        """Sides with different models. Raises ModelsDoNotFitTogether where `require`, if they never can."""
        self.sides = sides
        self._pool = pool
        self._clock = clock
        self._sampling = sampling
        self._courses = courses
        misfit = pool.misfit([side.model for side in sides])
        if misfit and require:
            raise ModelsDoNotFitTogether(misfit)
        self.together = misfit is None
        self._order = list(sides) if self.together else sorted(sides, key=self._is_away)
        self._began = clock.now()
        self._started = False

    async def run(self, emit: Emit) -> None:
        """Have them answer. Raises ArenaError if the pool refuses them before anything was emitted."""
        if self.together:
            await self._run_group(self.sides, emit)
        else:
            for side in self._order:
                await self._run_group([side], emit)
        await emit("end", {})

    def body(self) -> dict[str, Any]:
        """All of it in one piece, as `stream: false` asks for. Raises the first side's error if none answered."""
        if all(side.error for side in self.sides):
            assert self.sides[0].error is not None
            raise self.sides[0].error
        return {"co_residency": self._co_residency, "sides": [_whole(side) for side in self.sides]}

    @property
    def _co_residency(self) -> str:
        return "together" if self.together else "one_after_another"

    def _is_away(self, side: Side) -> bool:
        return self._pool.where(side.model).residency is not Residency.AWAKE

    async def _run_group(self, sides: Sequence[Side], emit: Emit) -> None:
        with ExitStack() as stack:
            courses = {side.letter: stack.enter_context(ends_with(self._course(side), self._pool)) for side in sides}
            await self._ask_group(sides, courses, emit)

    def _course(self, side: Side) -> Course:
        asker = origin()
        return self._courses.begin(asker, ROUTE, side.model, stream=True, request_id=asker.of_side(side.letter))

    async def _ask_group(self, sides: Sequence[Side], courses: Mapping[str, Course], emit: Emit) -> None:
        async def tell(outlook: Outlook) -> None:
            await self._start(emit)
            for side in sides:
                await emit("status", self._status(side, outlook))

        try:
            notices, share = Notices(0.0, STATUS_EVERY_S, tell), origin().caller.share
            lease = await self._pool.acquire([side.model for side in sides], notices, share)
        except ArenaError as e:
            for course in courses.values():
                course.end(e.status, e.code)
            if self.together and not self._started:
                raise
            await self._start(emit)
            for side in sides:
                await _fail(side, e, emit)
            return
        with lease:
            for course in courses.values():
                course.is_granted()
            await self._start(emit)
            async with asyncio.TaskGroup() as group:
                for side in sides:
                    group.create_task(self._answer(side, lease, courses[side.letter], emit))

    async def _start(self, emit: Emit) -> None:
        if not self._started:
            self._started = True
            sides = [{"side": side.letter, "model": side.model} for side in self.sides]
            order = [side.letter for side in self._order]
            await emit("start", {"sides": sides, "co_residency": self._co_residency, "order": order})

    def _status(self, side: Side, outlook: Outlook) -> dict[str, Any]:
        """Where a side is that waits, alone or for the others."""
        model = self._pool.where(side.model)
        if model.residency is Residency.AWAKE:
            return _status(side, "ready", "waits for the others", eta_s=outlook.eta_s)
        if model.residency in COMING_UP:
            return _status(side, "loading", outlook.phase, outlook.place, model.eta_s)
        return _status(side, "queued", outlook.phase, outlook.place, outlook.eta_s)

    async def _answer(self, side: Side, lease: Lease, course: Course, emit: Emit) -> None:
        side.waited_s = self._clock.now() - self._began
        await emit("status", _status(side, "ready", "awake"))
        try:
            engine = lease.engines[side.model]
            answer = generate(engine, side.messages, self._sampling, self._clock, side.answer, course)
            with ends_with(course, self._pool):
                async with aclosing(answer) as pieces:
                    async for piece in pieces:
                        kind = "reasoning" if piece.reasoning else "text"
                        await emit("delta", {"side": side.letter, kind: piece.text})
            await emit("done", side.done())
        except ArenaError as e:
            await _fail(side, e, emit)
        finally:
            lease.release(side.model)  # others may wait for it while the slower side goes on


def _status(
    side: Side, phase: str, detail: str, place: int | None = None, eta_s: float | None = None
) -> dict[str, Any]:
    return {"side": side.letter, "phase": phase, "detail": detail, "place": place, "eta_s": eta_s}


async def _fail(side: Side, error: ArenaError, emit: Emit) -> None:
    side.error = error
    await emit("error", {"side": side.letter, **error.body()})


def _whole(side: Side) -> dict[str, Any]:
    if side.error is not None:
        return {"side": side.letter, "model": side.model, **side.error.body()}
    texts = {"model": side.model, "text": side.answer.text, "reasoning": side.answer.reasoning or None}
    return {**side.done(), **texts}
