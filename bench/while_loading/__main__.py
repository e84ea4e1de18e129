"""What streams notice while another model loads: the longest gap between two tokens, against the same without a load.

The daemon, its zygote and the model that loads are real (vLLM on the CPU, a demo model). The streams are those of a
stand-in that paces them (bench/stand_in.py), which the daemon serves as a model of another server; as many run past
the daemon, straight from the stand-in, and show what the machine does to streams by itself. The parts have cores of
their own: clients, stand-in and daemon the first half, the zygote and all that it forks the second. Rounds come in
turn: a quiet one, then one in which a request for a cold model has it loaded, which is then stopped; the first load is
not counted. At the end the same with streams of a second demo model, which are as fast as their cores let them.

    python -m bench.while_loading [--rounds 8] [--streams 16] [--pace 50] [--json]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.client import Target
from bench.processes import run
from bench.report import Report, Spread, machine, print_skipped, step
from bench.while_loading.daemon import loading_daemon, paced_engine
from bench.while_loading.rounds import KINDS, Rounds

MOST_RATIO = 1.2
STREAM_S = 50.0  # how long a paced stream goes on; then it is asked for again
FREE_STREAMS, FREE_TOKENS = 2, 200


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the parts run."""

    streams: frozenset[int]
    loads: frozenset[int]


def share_cores(cores: Sequence[int]) -> Cores | None:
    """The first half, and the rest; None if there is but one."""
    half = len(cores) // 2
    return Cores(frozenset(cores[:half]), frozenset(cores[half:])) if half else None


async def measure(args: argparse.Namespace, cores: Cores) -> None:
    """Measure and print."""
    host = machine()
    os.sched_setaffinity(0, cores.streams)  # and so all that is started from here
    with tempfile.TemporaryDirectory(prefix="arena-bench-") as directory:
        async with paced_engine(args.pace) as paced, loading_daemon(Path(directory), paced) as served:
            through = Target("arena-server", served.port)
            served.engines_on(cores.loads)
            async with step("the zygote's imports and the first load, not counted"):
                await served.load(served.loaded)
                await served.stop(served.loaded)
                warm_s = await served.load(served.loaded)
                await served.stop(served.loaded)
            rounds = Rounds(served, {"through": through, "past": paced}, args.streams, round(args.pace * STREAM_S))
            async with step(f"{args.streams} paced streams, {args.rounds} rounds without and with a load"):
                await rounds.measure(args.rounds, warm_s)
            served.engines_on(cores.streams)
            async with step(f"loading {served.free}"):
                await served.load(served.free)
            served.engines_on(cores.loads)
            free = Target("free", served.port, served.free)
            fast = Rounds(served, {"through": free}, FREE_STREAMS, FREE_TOKENS)
            async with step(f"{FREE_STREAMS} streams of {served.free}, {args.rounds} rounds without and with a load"):
                await fast.measure(args.rounds, warm_s)
    shared = {"streams": sorted(cores.streams), "loads": sorted(cores.loads)}
    figures = {"rounds": args.rounds, "pace": args.pace, "cores": shared}
    report(host, {**figures, "paced": rounds.figures(), "free": fast.figures()}).print(as_json=args.json)


def report(host: dict[str, Any], figures: dict[str, Any]) -> Report:
    """The figures in words, and the verdict."""
    paced, free, cores = figures["paced"], figures["free"], figures["cores"]
    lines = [
        f"Clients, stand-in, daemon: core {_listed(cores['streams'])}; what loads: core {_listed(cores['loads'])}",
        f"A load takes {paced['load_s']} s; {figures['rounds']} rounds without and with one, in turn",
        f"{paced['streams']} streams of {figures['pace']:g} tokens/s through the daemon, {paced['streams']} past it: "
        "longest gap of a round, ms",
        *_gap_lines("through the daemon", paced["through"]),
        *_gap_lines("past it (what the machine does)", paced["past"]),
        "  the daemon itself used "
        + ", ".join(f"{paced['daemon_cores'][k].median:.1%} {k}" for k in KINDS)
        + " (of a core)",
        f"{free['streams']} streams of a real model on the daemon's core, as fast as it goes (no goal)",
        *_gap_lines("through the daemon", free["through"]),
    ]
    goal = (
        f"the longest gap between tokens of a paced stream, while another model loads, at most {MOST_RATIO:g} times "
        "that without a load (medians of rounds)"
    )
    return Report("while_loading", host, lines, figures, goal, paced["through"]["ratio"] <= MOST_RATIO)


def _gap_lines(where: str, gaps: dict[str, Any]) -> list[str]:
    longest: dict[str, Spread] = gaps["longest_ms"]
    p99: dict[str, Spread] = gaps["p99_ms"]
    lines = [f"    {kind:<9} {longest[kind]}   p99 of all gaps {p99[kind].median:.2f}" for kind in KINDS]
    return [f"  {where}", *lines, f"    ratio     {gaps['ratio']:.2f} of loading to quiet"]


def _listed(cores: Sequence[int]) -> str:
    return ", ".join(map(str, cores))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="What streams notice while another model loads.")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of each kind (8)")
    parser.add_argument("--streams", type=int, default=16, help="paced streams at once (16)")
    parser.add_argument("--pace", type=float, default=50, help="tokens per second of each paced stream (50)")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    cores = share_cores(sorted(os.sched_getaffinity(0)))
    if cores is None:
        print_skipped("while_loading", "there is one core, and so no other for the load", as_json=args.json)
        return 0
    return run(lambda: measure(args, cores))


if __name__ == "__main__":
    sys.exit(main())
