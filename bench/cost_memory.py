"""Memory of open streams: opened through the daemon, and from the bare application, in turn, on fresh processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from arena_server.file_limit import raise_file_limit
from bench.client import Connection, Counter, first_token_times
from bench.cost_sides import bare
from bench.processes import BenchError
from bench.report import spread
from bench.sides import Side, arena, stand_in

PACE = 1.0
TOKENS = 1000  # more than come while they are open
WARM_REQUESTS = 20
OPEN_LIMIT_S = 120.0
# Opened so many at a time, as people come, and not all at once.
TOGETHER = 50


async def memory_of_streams(directory: Path, counts: Sequence[int], rounds: int) -> dict[str, Any]:
    """Resident bytes of each side before, with so many streams open, and when they have ended."""
    raise_file_limit()  # for this process, and for what it starts
    found: dict[str, list[dict[int | str, int]]] = {"daemon": [], "bare": []}
    for _ in range(rounds):
        async with stand_in(directory, pace=PACE) as engine, arena(engine) as side:
            found["daemon"].append(await _rising(side, counts))
        async with bare(directory, PACE)() as launched:
            found["bare"].append(await _rising(launched.side, counts))
    figures: dict[str, Any] = {name: figures_of(held, counts) for name, held in found.items()}
    ours, theirs = (figures[side]["bytes_per_1000"][str(max(counts))].median for side in ("daemon", "bare"))
    return {**figures, "ratio": ours / theirs if theirs > 0 else None}


def figures_of(held: Sequence[dict[int | str, int]], counts: Sequence[int]) -> dict[str, Any]:
    """One side's figures from what each round saw: resident bytes before, with so many streams open, and after."""
    per_1000 = {str(n): spread([(seen[n] - seen["before"]) * 1000 / n for seen in held]) for n in counts}
    return {
        "before_bytes": spread([seen["before"] for seen in held]),
        "bytes_per_1000": per_1000,
        "after_bytes": spread([seen["after"] for seen in held]),
    }


async def _rising(side: Side, counts: Sequence[int]) -> dict[int | str, int]:
    await first_token_times(side.target, WARM_REQUESTS, 1)
    held: dict[int | str, int] = {"before": side.resident_bytes()}
    async with _streams(side) as opened:
        for count in sorted(counts):
            while len(opened) < count:
                await _open(side, opened, min(TOGETHER, count - len(opened)))
            held[count] = side.resident_bytes()
    await first_token_times(side.target, WARM_REQUESTS, 1)  # so the ends of those streams have been dealt with
    held["after"] = side.resident_bytes()
    return held


@contextlib.asynccontextmanager
async def _streams(side: Side) -> AsyncIterator[list[Connection]]:
    """Connections with a stream on each, closed at the end, and their askers with them."""
    opened: list[Connection] = []
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def _open(side: Side, opened: list[Connection], more: int) -> None:
    """Open so many more streams; each has its first token when this returns."""
    counter = Counter()
    new = [await side.target.connect(counter) for _ in range(more)]
    opened += new
    request = side.target.chat_request(TOKENS)
    asking = [asyncio.ensure_future(connection.ask(request, TOKENS)) for connection in new]
    for task in asking:
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # cut off at the end: as it should be
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(OPEN_LIMIT_S):
            while not all(connection.times for connection in new):
                if any(task.done() for task in asking):
                    break
                await asyncio.sleep(0.01)
            else:
                return
    raise BenchError(f"{side.target.name} did not open {len(opened)} streams")
