"""Rounds of streams, without a load and with one, and the gaps between tokens in them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.client import Target
from bench.gaps import gaps_ms
from bench.processes import BenchError
from bench.report import percentile, spread
from bench.while_loading.daemon import Daemon

SETTLE_S = 0.5
KINDS = ("quiet", "loading", "stopping")


@dataclass(slots=True)
class Gaps:
    """Milliseconds between tokens: the longest of each round by what went on in it, and the 99th percentile."""

    longest_ms: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    p99_ms: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, kind: str, answers: Sequence[Sequence[float]], began: float, ended: float) -> None:
        """Take in what the streams saw from `began` to `ended`. Raises BenchError if that is nothing."""
        gaps = [gap for times in answers for gap in gaps_ms(times, began, ended)]
        if not gaps:
            raise BenchError("no token came")
        self.longest_ms[kind].append(max(gaps))
        self.p99_ms[kind].append(percentile(gaps, 99))

    def figures(self) -> dict[str, Any]:
        """Raw and summed up; `ratio`: of the medians of the longest, with a load and without."""
        longest = {kind: spread(values) for kind, values in self.longest_ms.items()}
        return {
            "longest_ms": longest,
            "longest_ms_by_round": self.longest_ms,
            "p99_ms": {kind: spread(values) for kind, values in self.p99_ms.items()},
            "ratio": longest["loading"].median / longest["quiet"].median,
        }


@contextlib.asynccontextmanager
async def streams(target: Target, count: int, tokens: int) -> AsyncIterator[list[Sequence[float]]]:
    """So many streams, asked for again at their ends; yields a list that in the end has when tokens of each came."""
    answers: list[Sequence[float]] = []
    request = target.chat_request(tokens)

    async def client() -> None:
        connection = await target.connect()
        try:
            while True:
                answers.append((await connection.ask(request, tokens)).times)
        except TimeoutError:
            raise BenchError(f"{target.name}: an answer of {tokens} tokens took too long") from None
        finally:
            answers.append(connection.times)
            connection.close()

    clients = [asyncio.create_task(client()) for _ in range(count)]
    try:
        yield answers
    finally:
        ended = [task for task in clients if task.done()]
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    for task in ended:
        task.result()


@dataclass(slots=True)
class Rounds:
    """Rounds in turn with the same streams: a quiet one, and one with a load and a stop."""

    daemon: Daemon
    targets: Mapping[str, Target]
    count: int
    tokens: int
    gaps: dict[str, Gaps] = field(init=False)
    load_s: list[float] = field(default_factory=list)
    daemon_cores: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def __post_init__(self) -> None:
        self.gaps = {name: Gaps() for name in self.targets}

    async def measure(self, rounds: int, quiet_s: float) -> None:
        """So many of each; the first quiet round is `quiet_s` long, all others as long as the load before them."""
        for _ in range(rounds):
            await self._one(None, self.load_s[-1] if self.load_s else quiet_s)
            await self._one(self.daemon.loaded, 0)

    async def _one(self, model: str | None, quiet_s: float) -> None:
        moments: dict[str, tuple[float, float]] = {}
        async with contextlib.AsyncExitStack() as stack:
            answers = {
                name: await stack.enter_async_context(streams(target, self.count, self.tokens))
                for name, target in self.targets.items()
            }
            await asyncio.sleep(SETTLE_S)
            if model is None:
                moments["quiet"] = await self._during("quiet", asyncio.sleep(quiet_s))
            else:
                moments["loading"] = await self._during("loading", self._load(model))
                await asyncio.sleep(SETTLE_S)
                moments["stopping"] = await self._during("stopping", self.daemon.stop(model))
            await asyncio.sleep(SETTLE_S)  # a gap that has begun ends
        for name, times in answers.items():
            for kind, (start, end) in moments.items():
                self.gaps[name].add(kind, times, start, end)

    async def _load(self, model: str) -> None:
        self.load_s.append(await self.daemon.load(model))

    async def _during(self, kind: str, work: Awaitable[None]) -> tuple[float, float]:
        """When it began and ended; what the daemon used of a core meanwhile is noted."""
        began, used_s = time.perf_counter(), self.daemon.cpu_s()
        await work
        ended = time.perf_counter()
        self.daemon_cores[kind].append((self.daemon.cpu_s() - used_s) / (ended - began))
        return began, ended

    def figures(self) -> dict[str, Any]:
        """By where the streams ran."""
        cores = {kind: spread(values) for kind, values in self.daemon_cores.items()}
        about = {"streams": self.count, "load_s": spread(self.load_s), "daemon_cores": cores}
        return about | {name: gaps.figures() for name, gaps in self.gaps.items()}
