"""What the daemon itself costs: its start, its rest, its memory, its CPU, beside a bare FastAPI application.

The daemon is `arena-server serve` as a user starts it, with six models that nobody asks for; where answers are needed,
the same in front of the stand-in engine (bench/stand_in.py). The bare application (bench/bare_app.py) has uvicorn,
uvloop and httptools as the daemon has, and does nothing: what no service on FastAPI gets below.

    python -m bench.cost [--launches 5] [--idle 30] [--streams 200 1000] [--rounds 3] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.client import Demand, many_streams
from bench.cost_memory import memory_of_streams
from bench.cost_sides import Launch, bare, daemon, memory, settled
from bench.own_cpu import own_cpu_s
from bench.processes import run
from bench.report import Report, Spread, machine, spread, step
from bench.sides import arena, stand_in

MOST_UP_S = 1.0
MOST_IDLE = 0.005  # of a core
MOST_RESIDENT_MB = 120.0
IDLE_WINDOWS = 3
CPU_STREAMS = 32
PACE = 100.0
TOKENS = 100
SIDES = ("daemon", "bare")
MB = 1e6


async def starts(launches: Mapping[str, Launch], times: int) -> dict[str, Any]:
    """Each side launched in turn, until `GET /health` is answered: seconds, and CPU seconds of the process."""
    up: dict[str, list[float]] = {side: [] for side in SIDES}
    cpu: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(times + 1):
        for side in SIDES:
            async with launches[side]() as launched:
                if turn:  # the first finds a cold page cache
                    up[side].append(launched.up_s)
                    cpu[side].append(launched.up_cpu_s)
    return {
        "up_s": {side: spread(up[side]) for side in SIDES},
        "cpu_s": {side: spread(cpu[side]) for side in SIDES},
        "ratio": statistics.median(up["daemon"]) / statistics.median(up["bare"]),
        "cpu_ratio": statistics.median(cpu["daemon"]) / statistics.median(cpu["bare"]),
    }


async def idle(launches: Mapping[str, Launch], seconds: float) -> dict[str, Any]:
    """Both sides at rest at the same time: shares of a core in each of some windows, and memory after them."""
    async with launches["daemon"]() as ours, launches["bare"]() as theirs:
        zygote = await settled(ours.side)
        pids = {"daemon": ours.side.process.pid, "bare": theirs.side.process.pid}
        if zygote is not None:
            pids["zygote"] = zygote.pid
        shares: dict[str, list[float]] = {name: [] for name in pids}
        window_s = seconds / IDLE_WINDOWS
        for _ in range(IDLE_WINDOWS):
            before = {name: own_cpu_s(pid) for name, pid in pids.items()}
            await asyncio.sleep(window_s)
            for name, pid in pids.items():
                shares[name].append((own_cpu_s(pid) - before[name]) / window_s)
        return {
            "seconds": seconds,
            "share_of_a_core": {name: spread(values) for name, values in shares.items()},
            "memory_bytes": {"daemon": memory(ours.side), "bare": memory(theirs.side)},
            "zygote_resident_bytes": zygote.memory_info().rss if zygote is not None else None,
        }


async def chunks(directory: Path, bare_launch: Launch, blocks: int, seconds: float) -> dict[str, Any]:
    """Streams through the daemon, and from the bare application, in turn: CPU for each 1,000 chunks."""
    demand = Demand(CPU_STREAMS, TOKENS, TOKENS / PACE, seconds)
    async with stand_in(directory, pace=PACE) as engine, arena(engine) as ours, bare_launch() as theirs:
        ms: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(blocks):
            for name, side in (("daemon", ours), ("bare", theirs.side)):
                load = await many_streams(side.target, demand, side.cpu_s)
                ms[name].append(load.cpu_s * 1e6 / load.tokens)
    return {
        "streams": CPU_STREAMS,
        "cpu_ms_per_1000_chunks": {side: spread(values) for side, values in ms.items()},
        "ratio": statistics.median(ms["daemon"]) / statistics.median(ms["bare"]),
    }


async def measure(args: argparse.Namespace) -> None:
    """Measure and print."""
    host = machine()
    with tempfile.TemporaryDirectory(prefix="arena-bench-") as name:
        directory = Path(name)
        launches = {"daemon": daemon(directory, args.engine_start), "bare": bare(directory, PACE)}
        async with step(f"{args.launches} starts of each side, and one of each that is not counted"):
            start = await starts(launches, args.launches)
        async with step(f"the daemon and its zygote come to rest, and do nothing for {args.idle:g} s"):
            rest = await idle(launches, args.idle)
        async with step(f"{' and '.join(map(str, args.streams))} open streams, {args.rounds} times a side"):
            held = await memory_of_streams(directory, args.streams, args.rounds)
        async with step(f"{CPU_STREAMS} streams of {PACE:g} chunks/s, {args.rounds} times {args.seconds:g} s a side"):
            sent = await chunks(directory, launches["bare"], args.rounds, args.seconds)
    figures = {"start": start, "idle": rest, "open_streams": held, "chunks": sent}
    report(host, figures).print(as_json=args.json)


def report(host: Mapping[str, Any], figures: Mapping[str, Any]) -> Report:
    """The outcome: met by the medians."""
    start, rest = figures["start"], figures["idle"]
    met = (
        start["up_s"]["daemon"].median <= MOST_UP_S
        and rest["share_of_a_core"]["daemon"].median <= MOST_IDLE
        and rest["memory_bytes"]["daemon"].resident / MB <= MOST_RESIDENT_MB
    )
    goal = (
        f"the daemon up in at most {MOST_UP_S:.1f} s (median), idle at most {MOST_IDLE:.1%} of a core (median), "
        f"at most {MOST_RESIDENT_MB:g} MB resident"
    )
    lines = [
        "daemon: arena-server with six models that nobody asks for; bare: a FastAPI application that does nothing.",
        "Both: uvicorn with uvloop and httptools. The zygote, which imports vLLM for the engines, is a process of its",
        "own; it begins just before /health is answered, and competes with the daemon where cores are few.",
        "The daemon at rest may have made its database with Alembic: the most that it holds after a start.",
        "",
        *_start_lines(start),
        *_idle_lines(rest),
        *_streams_lines(figures["open_streams"]),
        *_chunks_lines(figures["chunks"]),
    ]
    return Report("cost", host, lines, figures, goal, met)


def _start_lines(start: Mapping[str, Any]) -> list[str]:
    sides = (
        f"    {side:8}  {start['up_s'][side]}   CPU {start['cpu_s'][side]} of the process by then" for side in SIDES
    )
    ratios = f"    ratio     {start['ratio']:.2f}, of CPU {start['cpu_ratio']:.2f}"
    return ["Seconds from the launch until GET /health is 200", *sides, ratios, ""]


def _idle_lines(rest: Mapping[str, Any]) -> list[str]:
    lines = [f"At rest for {rest['seconds']:g} s: % of a core"]
    lines += [f"    {name:8}  {_scaled(share, 100)}" for name, share in rest["share_of_a_core"].items()]
    lines.append("Memory then, MB: resident (of it, shared pages shared out; and its own alone)")
    for side, held in rest["memory_bytes"].items():
        lines.append(
            f"    {side:8}  {held.resident / MB:.1f} ({held.shared_fairly / MB:.1f} PSS; {held.own / MB:.1f} USS)"
        )
    if (zygote := rest["zygote_resident_bytes"]) is not None:
        lines.append(f"    zygote    {zygote / MB:.1f}, which its engines share until they write to it")
    return [*lines, ""]


def _streams_lines(held: Mapping[str, Any]) -> list[str]:
    lines = []
    for side in SIDES:
        found = held[side]
        lines.append(f"    {side:8}  {_scaled(found['before_bytes'], 1 / MB)} MB before")
        for count, grown in found["bytes_per_1000"].items():
            lines.append(f"              at {count}: {_scaled(grown, 1 / MB)} MB more for each 1,000")
        lines.append(f"              {_scaled(found['after_bytes'], 1 / MB)} MB when they have ended")
    ratio = "none: the bare one has not grown" if held["ratio"] is None else f"{held['ratio']:.2f} at the most streams"
    lines.append(f"    ratio     {ratio}")
    return ["Open streams: resident memory", *lines, ""]


def _chunks_lines(sent: Mapping[str, Any]) -> list[str]:
    sides = (f"    {side:8}  {found}" for side, found in sent["cpu_ms_per_1000_chunks"].items())
    return [
        f"{sent['streams']} streams of {PACE:g} chunks/s: ms of CPU for each 1,000 chunks",
        *sides,
        f"    ratio     {sent['ratio']:.2f} (the bare one has no engine to read from: its chunks are ready-made)",
    ]


def _scaled(found: Spread, by: float) -> Spread:
    return Spread(found.median * by, found.low * by, found.high * by, found.count)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="What the daemon itself costs.")
    parser.add_argument("--launches", type=int, default=5, help="measured starts of each side (5)")
    parser.add_argument("--idle", type=float, default=30, help="seconds at rest (30)")
    parser.add_argument("--streams", type=int, nargs="+", default=[200, 1000], help="open streams, rising (200 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="times a side, with open streams and with busy ones (3)")
    parser.add_argument("--seconds", type=float, default=4, help="seconds of each round of busy streams (4)")
    parser.add_argument(
        "--engine-start", choices=("fork", "spawn"), default="fork", help="the daemon's: fork has a zygote (fork)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    return run(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
