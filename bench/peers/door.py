"""A front door to the engine: what is asked, what it costs, and how it is started."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.client import Target
from bench.processes import BenchError, running
from bench.sides import Side

# LiteLLM's imports alone take minutes on busy cores.
START_LIMIT_S = 240.0
POLL_S = 0.1
LOG_TAIL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Door:
    """A front door that is up."""

    about: str  # what it is, in which version, for people
    sides: Sequence[Side]  # its processes; the first is the one to ask

    @property
    def target(self) -> Target:
        """Where to ask it."""
        return self.sides[0].target

    @property
    def name(self) -> str:
        """As the report calls it."""
        return self.target.name

    def cpu_s(self) -> float:
        """CPU seconds that its processes and their children have used so far."""
        return sum(side.cpu_s() for side in self.sides)


@dataclass(frozen=True, slots=True)
class Program:
    """A running program that is not ours."""

    process: asyncio.subprocess.Process
    log: Path  # all that it says

    def side(self, target: Target) -> Side:
        """It as what answers at `target`."""
        return Side(target, psutil.Process(self.process.pid))


@contextlib.asynccontextmanager
async def program(
    directory: Path, name: str, *argv: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[Program]:
    """Start a program by its path, in `directory`, where it also logs; ended at the end."""
    log = directory / f"{name}.log"
    with log.open("wb") as said:
        async with running("-m", "bench.peers.child", str(directory), *argv, env=env, stdout=said, stderr=said) as made:
            yield Program(made, log)


async def until_answers(target: Target, *programs: Program, limit_s: float = START_LIMIT_S) -> None:
    """Wait until a whole answer comes from `target`, the only proof that all behind it is up, too.

    Raises BenchError, with the end of the logs, when one of the programs has ended or it takes too long.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while all(p.process.returncode is None for p in programs):
                if await _answers(target):
                    return
                await asyncio.sleep(POLL_S)
    tails = "\n".join(f"{p.log.name}: {p.log.read_text(errors='replace')[-LOG_TAIL_CHARACTERS:]}" for p in programs)
    raise BenchError(f"{target.name} did not answer; the end of what it said:\n{tails}")


async def _answers(target: Target) -> bool:
    try:
        connection = await target.connect()
    except OSError:
        return False
    try:
        await connection.ask(target.chat_request(1), 1)
    except (BenchError, TimeoutError):
        return False
    finally:
        connection.close()
    return True
