"""The leaderboard: ranked in a process of its own, kept until there are other votes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from arena_server.arena.ranking_process import answer, question
from arena_server.clock import Clock
from arena_server.errors import ArenaError, ShuttingDown
from arena_server.store.records import VoteCount

log = logging.getLogger(__name__)

SCALE = "Elo-like: 400 points are odds of 10 to 1; the mean over all votes is 1000"
ROUNDS = 500
SEED = 0  # the same votes give the same intervals
# However often it is asked for, ranking takes at most about a third of one core.
REST_S = 2.0
LIMIT_S = 60.0
# -P: a file in the directory that the daemon was started in cannot take a module's place.
COMMAND = (sys.executable, "-P", "-m", "arena_server.arena.ranking_process")


class VoteSource(Protocol):
    """Where the votes are kept."""

    async def votes(self) -> int:
        """How many there are."""
        ...

    async def tallies(self) -> Sequence[VoteCount]:
        """All of them, counted."""
        ...


class LeaderboardFailed(ArenaError):
    """The votes could not be ranked; the log says why."""

    code = "leaderboard_failed"


@dataclass(frozen=True, slots=True)
class _Board:
    """A leaderboard, of what votes and models it is, and when it was ready."""

    content: dict[str, Any]
    of: tuple[int, tuple[str, ...]]
    ready_at: float


class Leaderboard:
    """`GET /v1/arena/leaderboard`'s answer.

    It is ranked anew when it is asked for and there are other votes or models than it was made of, but not within
    `rest_s` of the last time: until then the last one is given, whose `votes` and `updated_at` say of when it is. One
    ranking runs at a time, and all who ask meanwhile get what comes of it.
    """

    def __init__(
        self,
        source: VoteSource,
        clock: Clock,
        names: Callable[[], Sequence[str]] = tuple,
        *,
        rest_s: float = REST_S,
        limit_s: float = LIMIT_S,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """`names` tells the models that are listed even without votes. A ranking may take `limit_s`."""
        self._source = source
        self._clock = clock
        self._names = names
        self._rest_s = rest_s
        self._limit_s = limit_s
        self._command = command
        self._last: _Board | None = None
        self._running: asyncio.Task[_Board] | None = None
        self._closed = False

    async def get(self) -> dict[str, Any]:
        """The answer, which is not the caller's to change.

        Raises LeaderboardFailed, ShuttingDown, and what the source of votes raises.
        """
        if self._last is not None and self._clock.now() - self._last.ready_at < self._rest_s:
            return self._last.content
        running = self._running
        if running is None:
            of = await self._source.votes(), tuple(self._names())
            if self._last is not None and self._last.of == of:
                return self._last.content
            running = self._begun(of)
        # It goes on if this caller leaves: others may wait for it too.
        await asyncio.wait([running])
        if running.cancelled():
            raise ShuttingDown("The server is shutting down.")
        return running.result().content

    async def close(self) -> None:
        """End what runs; who still waits for it gets ShuttingDown."""
        self._closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    def _begun(self, of: tuple[int, tuple[str, ...]]) -> asyncio.Task[_Board]:
        """The ranking that runs now; others may have begun it while this caller's votes were counted."""
        if self._closed:
            raise ShuttingDown("The server is shutting down.")
        if self._running is None:
            self._running = asyncio.create_task(self._ranked(of))
            self._running.add_done_callback(self._ended)
        return self._running

    def _ended(self, task: asyncio.Task[_Board]) -> None:
        self._running = None
        if not task.cancelled() and task.exception() is None:
            self._last = task.result()

    async def _ranked(self, of: tuple[int, tuple[str, ...]]) -> _Board:
        counts = await self._source.tallies()
        asked = question(counts, of[1], ROUNDS, SEED)
        try:
            async with asyncio.timeout(self._limit_s):
                ranking = answer(await self._run(asked))
        except TimeoutError as e:
            log.warning("ranking the votes took longer than %g s and was ended", self._limit_s)
            raise LeaderboardFailed(f"Ranking the votes took longer than {self._limit_s:g} s.") from e
        except (OSError, ValueError) as e:
            log.warning("cannot rank the votes: %s", e)
            raise LeaderboardFailed("The votes could not be ranked; the server's log says why.") from e
        content = {"updated_at": datetime.now(UTC).isoformat(), "scale": SCALE, **ranking}
        return _Board(content, of, self._clock.now())

    async def _run(self, asked: bytes) -> bytes:
        """The output of the process; it is gone at the end, however that comes."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            output, said = await process.communicate(asked)
        except RuntimeError as e:  # uvloop's, of a process that has ended before it was written to
            raise ChildProcessError(str(e)) from e
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            raise ChildProcessError(f"status {process.returncode}: {said.decode(errors='replace')[-2000:].strip()}")
        return output
