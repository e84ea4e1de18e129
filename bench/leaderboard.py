"""The leaderboard of many votes: how long it takes, and whether streams that run meanwhile notice.

The engine is a stand-in that streams at a set pace (bench/stand_in.py). All else is real: the daemon in a process of
its own, its database on disk, the process that ranks. Blocks without and with a request for the leaderboard come in
turn; before each of the latter there is one vote more, so that nothing is answered from memory.

    python -m bench.leaderboard [--votes 10000] [--models 20] [--streams 16] [--blocks 5] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from sqlalchemy import create_engine

from arena_server.arena.leaderboard import REST_S
from arena_server.arena.pairs import draw
from arena_server.store import schema
from arena_server.store.records import BattleRecord, ModelRecord, Vote
from arena_server.store.rows import battle_row
from arena_server.store.store import Store
from bench.client import Connection, Target
from bench.gaps import gaps_ms
from bench.processes import BenchError, run
from bench.report import Report, machine, percentile, spread, step
from bench.sides import arena, stand_in

MOST_S = 2.0
MOST_ADDED_MS = 100.0
REQUEST_LIMIT_S = 50.0
SETTLE_S = 0.5
QUIET_S = 1.5  # looked at without a leaderboard


@dataclass(frozen=True, slots=True)
class Daemon:
    """The daemon, and its votes: the store and how to make one more."""

    target: Target
    store: Store
    more: itertools.count[int]


def a_battle(number: int, models: Sequence[str], chance: random.Random) -> tuple[BattleRecord, Vote]:
    """A battle of a drawn pair and its vote; of two models the later one is the better one, twice as often as not."""
    weights = dict.fromkeys(models, 1.0)
    drawn = draw(weights, lambda a, b: True, chance.sample(models, 2), 0.5, chance)
    a, b = (ModelRecord(name, f"org/{name}", None, {}) for name in (drawn.a, drawn.b))
    better, worse = (Vote.A, Vote.B) if drawn.a > drawn.b else (Vote.B, Vote.A)
    vote = chance.choice((better, better, worse, Vote.TIE, Vote.BOTH_BAD))
    at = datetime.now(UTC)
    return BattleRecord(f"bench-{number}", at, a, b, drawn.probability, True, {}, ()), vote


def fill(url: str, votes: int, models: Sequence[str]) -> None:
    """Keep so many votes, all at once: one after the other would take a minute."""
    chance = random.Random(votes)
    made = [a_battle(number, models, chance) for number in range(votes)]
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(schema.battles.insert(), [battle_row(battle) for battle, _ in made])
        rows = [{"battle_id": battle.id, "vote": vote.value, "at": battle.created_at} for battle, vote in made]
        connection.execute(schema.votes.insert(), rows)
    engine.dispose()


@contextlib.asynccontextmanager
async def daemon(args: argparse.Namespace, models: Sequence[str]) -> AsyncIterator[Daemon]:
    """The stand-in and the daemon in front of it, with its votes; ended at the end."""
    with tempfile.TemporaryDirectory(prefix="arena-bench-") as directory:
        url = f"sqlite:///{directory}/arena.db"
        store = Store(url)
        try:
            await store.open()
            async with step(f"keeping {args.votes:,} votes"):
                await asyncio.to_thread(fill, url, args.votes, models)
            async with (
                stand_in(Path(directory), pace=args.pace) as engine,
                arena(engine, "--votes", url) as served,
            ):
                yield Daemon(served.target, store, itertools.count(args.votes))
        finally:
            await store.close()


async def leaderboard_s(to: Daemon, models: Sequence[str]) -> float:
    """Seconds of one request, after one more vote."""
    number = next(to.more)
    battle, vote = a_battle(number, models, random.Random(number))
    await to.store.vote(battle, vote, battle.created_at)
    timeout = aiohttp.ClientTimeout(REQUEST_LIMIT_S)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{to.target.address}", timeout=timeout) as client:
        began = time.perf_counter()
        async with client.get("/v1/arena/leaderboard") as response:
            found = await response.json()
        took = time.perf_counter() - began
    if response.status != 200 or found["votes"] != number + 1:
        raise BenchError(f"no leaderboard of {number + 1} votes, but {response.status} {found}")
    return took


async def block(to: Daemon, args: argparse.Namespace, models: Sequence[str] | None) -> tuple[list[float], float]:
    """Streams, and meanwhile a leaderboard or none: all gaps between tokens in ms, and the leaderboard's seconds."""
    async with streams(to, args.streams, round(args.pace * REQUEST_LIMIT_S)) as connections:
        await asyncio.sleep(REST_S + SETTLE_S)  # after the last leaderboard the daemon rests
        began = time.perf_counter()
        if models is None:
            await asyncio.sleep(QUIET_S)
        else:
            await leaderboard_s(to, models)
        ended = time.perf_counter()
        await asyncio.sleep(SETTLE_S)  # a gap that has begun ends
    return [gap for connection in connections for gap in gaps_ms(connection.times, began, ended)], ended - began


@contextlib.asynccontextmanager
async def streams(to: Daemon, count: int, tokens: int) -> AsyncIterator[list[Connection]]:
    """So many streams, left at the end. Raises BenchError if one ended before."""
    connections = [await to.target.connect() for _ in range(count)]
    request = to.target.chat_request(tokens)
    askers = [asyncio.create_task(connection.ask(request, tokens)) for connection in connections]
    try:
        yield connections
        if any(asker.done() for asker in askers):
            raise BenchError("a stream ended too early")
    finally:
        for asker, connection in zip(askers, connections, strict=True):
            asker.cancel()
            connection.close()
        await asyncio.gather(*askers, return_exceptions=True)


async def measure(args: argparse.Namespace) -> None:
    """Measure and print."""
    host = machine()
    models = [f"model-{i:02}" for i in range(args.models)]
    gaps: dict[str, list[list[float]]] = {"without": [], "with": []}
    seconds = []
    async with daemon(args, models) as to:
        alone = []
        async with step(f"{args.blocks} leaderboards without streams"):
            for _ in range(args.blocks):
                alone.append(await leaderboard_s(to, models))
                await asyncio.sleep(REST_S + SETTLE_S)
        async with step(f"{args.streams} streams, {args.blocks} blocks without and with a leaderboard"):
            for _ in range(args.blocks):
                gaps["without"].append((await block(to, args, None))[0])
                found, took = await block(to, args, models)
                gaps["with"].append(found)
                seconds.append(took)
    longest = {name: spread([max(one) for one in blocks]) for name, blocks in gaps.items()}
    p95 = {name: percentile([gap for one in blocks for gap in one], 95) for name, blocks in gaps.items()}
    added = longest["with"].median - longest["without"].median
    met = spread(alone).median < MOST_S and spread(seconds).median < MOST_S and added <= MOST_ADDED_MS
    goal = (
        f"a leaderboard of {args.votes:,} votes in under {MOST_S:g} s, and the longest gap between two tokens "
        f"at most {MOST_ADDED_MS:g} ms longer meanwhile (medians)"
    )
    lines = [
        f"{args.votes:,} votes on {args.models} models, in SQLite; each request after a new vote.",
        f"leaderboard, s      without streams {spread(alone)}",
        f"                    with streams    {spread(seconds)}",
        f"{args.streams} streams of {args.pace:g} tokens/s through the daemon: ms between tokens",
        *(f"    {name:<8}leaderboard  p95 {p95[name]:.1f}, longest of a block {longest[name]}" for name in gaps),
    ]
    figures = {
        **{"votes": args.votes, "models": args.models, "streams": args.streams, "pace": args.pace},
        **{"leaderboard_s": spread(alone), "leaderboard_with_streams_s": spread(seconds)},
        **{"gap_p95_ms": p95, "longest_gap_ms": longest, "longest_gap_added_ms": added},
    }
    Report("leaderboard", host, lines, figures, goal, met).print(as_json=args.json)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="The leaderboard of many votes, and the streams that run meanwhile.")
    parser.add_argument("--votes", type=int, default=10_000, help="votes (10000)")
    parser.add_argument("--models", type=int, default=20, help="models that they are about (20)")
    parser.add_argument("--streams", type=int, default=16, help="streams at once (16)")
    parser.add_argument("--pace", type=float, default=50, help="tokens per second of each stream (50)")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of each kind (5)")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    return run(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
