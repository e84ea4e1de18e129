"""What the relay adds: arena-server against the same engine's socket directly, and a bare relay, turn by turn.

The engine is a stand-in that streams at a set pace (bench/stand_in.py), for a tiny model on a few cores would
measure the cores. All else is real: the daemon's server, routes, pool and relay in a process of their own, on a
TCP port. The stand-in and the clients (this process) are the same on both sides.

    python -m bench.overhead [--requests 300] [--streams 16 64 256] [--seconds 15] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from bench.client import Demand, Load, first_token_times, many_streams
from bench.processes import run
from bench.report import Report, machine, percentile, spread, step
from bench.sides import Side, arena, bare_relay, stand_in

MOST_ADDED_MS = 1.0
MOST_ADDED_P99_MS = 5.0
P99_STREAMS = 64
LEAST_RATIO = 0.98
BLOCK_REQUESTS = 20
BLOCK_S = 5.0
# Tokens of an answer at one client. Two: the second comes with the engine's next step, and all rests meanwhile, as
# it does at low traffic. One: the next request comes at once, with every cache warm.
PACED, BACK_TO_BACK = 2, 1


@contextlib.asynccontextmanager
async def all_sides(args: argparse.Namespace) -> AsyncIterator[dict[str, Side]]:
    """The stand-in, the daemon and the bare relay in front of it, up and warm; ended at the end."""
    with tempfile.TemporaryDirectory(prefix="arena-bench-") as directory:
        async with (
            stand_in(Path(directory), pace=args.pace, first_token_ms=args.first_token_ms) as engine,
            arena(engine) as daemon,
            bare_relay(engine) as bare,
        ):
            for side in (engine, daemon, bare):
                await first_token_times(side.target, BLOCK_REQUESTS, BACK_TO_BACK)
            yield {"direct": engine, "relay": daemon, "bare": bare}


async def one_client(sides: dict[str, Side], requests: int, tokens: int) -> dict[str, Any]:
    """One client, each way in turn by blocks of requests: times to the first token, and what is added."""
    blocks: dict[str, list[list[float]]] = {name: [] for name in sides}
    cpu_s = dict.fromkeys(sides, 0.0)
    for done in range(0, requests, BLOCK_REQUESTS):
        size = min(BLOCK_REQUESTS, requests - done)
        for name, side in sides.items():
            before = side.cpu_s()
            blocks[name].append(_ms(await first_token_times(side.target, size, tokens)))
            cpu_s[name] += side.cpu_s() - before
    ms = {}
    for name, times in blocks.items():
        together = [t for block in times for t in block]
        ms[name] = {"median": spread(together).median, "p95": percentile(together, 95)}
    medians = {name: [spread(block).median for block in times] for name, times in blocks.items()}
    # Each block has one request that is not counted, on a new connection.
    asked = requests + len(medians["direct"])
    return {
        "requests": requests,
        "first_token_ms": ms,
        "added_ms": {q: ms["relay"][q] - ms["direct"][q] for q in ("median", "p95")},
        "added_ms_by_block": spread([r - d for d, r in zip(medians["direct"], medians["relay"], strict=True)]),
        "bare_added_ms": {q: ms["bare"][q] - ms["direct"][q] for q in ("median", "p95")},
        "daemon_cpu_ms_per_request": cpu_s["relay"] * 1000 / asked,
        "bare_cpu_ms_per_request": cpu_s["bare"] * 1000 / asked,
    }


async def streams(sides: dict[str, Side], demand: Demand, blocks: int) -> dict[str, Any]:
    """Many streams, each way in turn: tokens/s, times to the first token and per token, and CPU."""
    loads: dict[str, list[Load]] = {name: [] for name in sides}
    for _ in range(blocks):
        for name, side in sides.items():
            loads[name].append(await many_streams(side.target, demand, side.cpu_s))
    rates = {name: [load.tokens_per_s for load in side] for name, side in loads.items()}
    first, per_token, cpu = {}, {}, {}
    for name, side_loads in loads.items():
        answers = [answer for load in side_loads for answer in load.answers]
        times = _ms([answer.first_s for answer in answers])
        first[name] = {"p50": percentile(times, 50), "p99": percentile(times, 99)}
        per_token[name] = spread(_ms([answer.per_token_s for answer in answers]))
        cpu_s, tokens = sum(load.cpu_s for load in side_loads), sum(load.tokens for load in side_loads)
        cpu[name] = (cpu_s * 1e6 / tokens, cpu_s / sum(load.seconds for load in side_loads))
    ratios = [r / d for d, r in zip(rates["direct"], rates["relay"], strict=True)]
    direct = spread(rates["direct"]).median
    return {
        "streams": demand.streams,
        "tokens_per_s": {name: spread(values) for name, values in rates.items()},
        "ratio": spread(rates["relay"]).median / direct,
        "ratio_by_block": spread(ratios),
        "bare_ratio": spread(rates["bare"]).median / direct,
        "requests": sum(len(load.answers) for load in loads["relay"]),
        "first_token_ms": first,
        "added_ms": {q: first["relay"][q] - first["direct"][q] for q in ("p50", "p99")},
        "bare_added_ms": {q: first["bare"][q] - first["direct"][q] for q in ("p50", "p99")},
        "per_token_ms": per_token,
        "daemon_cpu_ms_per_1000_chunks": cpu["relay"][0],
        "daemon_cpu_share_of_a_core": cpu["relay"][1],
        "bare_cpu_ms_per_1000_chunks": cpu["bare"][0],
        "bare_cpu_share_of_a_core": cpu["bare"][1],
    }


async def measure(args: argparse.Namespace) -> None:
    """Measure and print."""
    host = machine()
    answer_s = args.tokens / args.pace + args.first_token_ms / 1000
    blocks = math.ceil(args.seconds / BLOCK_S)
    many = []
    async with all_sides(args) as sides:
        async with step(f"1 client, {args.requests} requests a side"):
            one = await one_client(sides, args.requests, PACED)
            warm = await one_client(sides, args.requests, BACK_TO_BACK)
        for count in args.streams:
            demand = Demand(count, args.tokens, answer_s, args.seconds / blocks)
            async with step(f"{count} streams, {blocks} times {demand.seconds:g} s a side"):
                many.append(await streams(sides, demand, blocks) | {"asked_tokens_per_s": count * args.pace})
    figures = {"one_client": one, "back_to_back": warm, "streams": many}
    goal, met = judge(figures)
    lines = [
        "The engine is a stand-in that streams at a set pace: these figures are the relay's, not a model's.",
        f"It sends {args.pace:g} chunks/s a stream, the first after {args.first_token_ms:g} ms.",
        "Direct: its Unix socket; relay: arena-server, in front of it, on a TCP port.",
        "Bare relay: a few lines of ASGI on the same HTTP server and client, which pass bytes on and do nothing else.",
        "",
        *_one_client_lines("1 client", one),
        *_one_client_lines("1 client, back to back", warm),
        *(line for each in many for line in _streams_lines(each)),
    ]
    Report("overhead", host, lines, figures, goal, met).print(as_json=args.json)


def judge(figures: dict[str, Any]) -> tuple[str, bool]:
    """The goal in words, and whether these figures meet it."""
    parts = [f"at most +{MOST_ADDED_MS:g} ms to the first token at 1 client (median)"]
    met = figures["one_client"]["added_ms"]["median"] <= MOST_ADDED_MS
    for each in figures["streams"]:
        count = each["streams"]
        parts.append(f"at least {LEAST_RATIO:g} of the direct tokens/s at {count} streams")
        met = met and each["ratio"] >= LEAST_RATIO
        if count == P99_STREAMS:
            parts.append(f"at most +{MOST_ADDED_P99_MS:g} ms to the first token at {count} streams (p99)")
            met = met and each["added_ms"]["p99"] <= MOST_ADDED_P99_MS
    return ", ".join(parts), met


def _one_client_lines(what: str, one: dict[str, Any]) -> list[str]:
    ms, added = one["first_token_ms"], one["added_ms"]
    return [
        f"{what}, {one['requests']} requests a side: ms to the first token",
        f"    direct    median {ms['direct']['median']:.2f}, p95 {ms['direct']['p95']:.2f}",
        f"    relay     median {ms['relay']['median']:.2f}, p95 {ms['relay']['p95']:.2f}",
        f"    added     median {added['median']:+.2f}, p95 {added['p95']:+.2f}; by block {one['added_ms_by_block']}",
        f"    bare relay adds median {one['bare_added_ms']['median']:+.2f}, p95 {one['bare_added_ms']['p95']:+.2f}",
        f"    CPU a request: daemon {one['daemon_cpu_ms_per_request']:.2f} ms, "
        f"bare relay {one['bare_cpu_ms_per_request']:.2f} ms",
        "",
    ]


def _streams_lines(many: dict[str, Any]) -> list[str]:
    first, rates, per_token = many["first_token_ms"], many["tokens_per_s"], many["per_token_ms"]
    added, bare = many["added_ms"], many["bare_added_ms"]
    return [
        f"{many['streams']} streams, {many['asked_tokens_per_s']:,.0f} tokens/s asked for",
        *(f"    {name:<9} {rates[name]} tokens/s" for name in ("direct", "relay", "bare")),
        f"    ratio     {many['ratio']:.3f}; by block {many['ratio_by_block']}; bare relay {many['bare_ratio']:.3f}",
        f"    ms to the first token, {many['requests']} requests a side",
        *(f"    {name:<9} p50 {first[name]['p50']:.2f}, p99 {first[name]['p99']:.2f}" for name in first),
        f"    added     p50 {added['p50']:+.2f}, p99 {added['p99']:+.2f}; "
        f"bare relay p50 {bare['p50']:+.2f}, p99 {bare['p99']:+.2f}",
        "    ms per output token, from the first on (medians of answers): "
        + ", ".join(f"{name} {value.median:.2f}" for name, value in per_token.items()),
        f"    CPU per 1,000 chunks: daemon {many['daemon_cpu_ms_per_1000_chunks']:.1f} ms "
        f"({many['daemon_cpu_share_of_a_core']:.0%} of a core), bare relay "
        f"{many['bare_cpu_ms_per_1000_chunks']:.1f} ms ({many['bare_cpu_share_of_a_core']:.0%})",
        "",
    ]


def _ms(times: Sequence[float]) -> list[float]:
    return [t * 1000 for t in times]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="What arena-server's relay adds to an engine.")
    parser.add_argument("--requests", type=int, default=300, help="requests a side at one client (300)")
    parser.add_argument("--streams", type=int, nargs="+", default=[16, 64, 256], help="streams at once (16 64 256)")
    parser.add_argument("--seconds", type=float, default=15, help="measured seconds a side with streams (15)")
    parser.add_argument("--pace", type=float, default=100, help="tokens per second of each stream (100)")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of an answer with streams (100)")
    parser.add_argument("--first-token-ms", type=float, default=0, help="milliseconds to the engine's first token (0)")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    return run(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
