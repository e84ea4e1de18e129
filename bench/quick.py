"""A check before a release that nothing has become grossly slower: under a minute, without vLLM.

Only ratios of what is measured in turn in the same run, with bounds generous enough for a busy machine: those of the
daemon to the least that a FastAPI service costs (bench/bare_app.py), to the engine's own socket, and of the pool's
decisions to plain LRU's in virtual time. What is fine here may still be slower than it was: for that, run the suite.

    python -m bench.quick [--json]      # exit status 1 if a ratio is above its bound
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.client import Demand, Load, first_token_times, many_streams
from bench.cost_sides import bare, daemon
from bench.policies.contenders import CORE, LRU
from bench.policies.measure import table
from bench.policies.traces import workloads
from bench.processes import run
from bench.report import Report, machine, percentile, step
from bench.sides import Side, arena, stand_in

STREAMS = 16
TOKENS = 50
PACE = 100.0
# Of times to the first token this percentile is compared, of several rounds the best one: what else the machine does
# only ever slows a side down.
UNDISTURBED = 10
MOST_FIRST_TOKEN, MOST_RATE, MOST_CPU, MOST_MEMORY, MOST_START = 3.5, 1.1, 3.0, 2.5, 2.5
# Virtual time is the same each time, so these are near: the ratios of 2026-11-22, and a tenth.
SIMULATED = {"pairs, 3 of 6": 0.99, "bursts, 2 of 4": 0.78}


@dataclass(frozen=True, slots=True)
class Check:
    """One ratio, and the most that it may be."""

    what: str
    ratio: float
    most: float

    @property
    def ok(self) -> bool:
        """Whether it is."""
        return self.ratio <= self.most

    def line(self) -> str:
        """For people."""
        return f"{self.what:<76}{self.ratio:6.2f}   at most {self.most:4.2f}   {'ok' if self.ok else 'TOO HIGH'}"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    rounds: int
    requests: int  # of each round
    blocks: int
    seconds: float  # of each block of streams
    starts: int
    simulated: int  # requests


WHOLE = Effort(rounds=10, requests=20, blocks=3, seconds=1.0, starts=3, simulated=600)
TINY = Effort(rounds=1, requests=5, blocks=1, seconds=0.3, starts=1, simulated=300)


async def first_token_check(relay: Side, plain: Side, effort: Effort) -> Check:
    """The relay beside the bare service, one client, back to back."""
    seconds: dict[Side, list[float]] = {plain: [], relay: []}
    async with step("first tokens"):
        for side in seconds:
            await first_token_times(side.target, effort.requests, 1)
        for _ in range(effort.rounds):
            for side, found in seconds.items():
                found.extend(await first_token_times(side.target, effort.requests, 1))
    ratio = percentile(seconds[relay], UNDISTURBED) / percentile(seconds[plain], UNDISTURBED)
    return Check("first token, 1 client: through the daemon / from the bare service", ratio, MOST_FIRST_TOKEN)


async def stream_checks(engine: Side, relay: Side, plain: Side, effort: Effort) -> list[Check]:
    """Streams through the relay beside those of the bare service, and from the engine's own socket."""
    demand = Demand(STREAMS, TOKENS, TOKENS / PACE, effort.seconds)
    loads: dict[Side, list[Load]] = {engine: [], relay: [], plain: []}
    async with step(f"{STREAMS} streams"):
        for _ in range(effort.blocks):
            for side, found in loads.items():
                found.append(await many_streams(side.target, demand, side.cpu_s))
    rate = {side: max(load.tokens_per_s for load in found) for side, found in loads.items()}
    cpu_s = {side: min(load.cpu_s / load.tokens for load in found) for side, found in loads.items()}
    held = relay.resident_bytes() / plain.resident_bytes()
    return [
        Check(
            f"tokens/s, {STREAMS} streams: engine's socket / through the daemon", rate[engine] / rate[relay], MOST_RATE
        ),
        Check(f"CPU per chunk, {STREAMS} streams: daemon / bare service", cpu_s[relay] / cpu_s[plain], MOST_CPU),
        Check(f"memory after {STREAMS} streams: daemon / bare service", held, MOST_MEMORY),
    ]


async def start_check(directory: Path, starts: int) -> Check:
    """From the launch of the daemon to the first /health."""
    ways = {"daemon": daemon(directory, "spawn"), "bare": bare(directory)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    async with step(f"{starts} starts"):
        for _ in range(starts):
            for name, launch in ways.items():
                async with launch() as launched:
                    seconds[name].append(launched.up_s)
    return Check(
        "start to the first /health: daemon / bare service", min(seconds["daemon"]) / min(seconds["bare"]), MOST_START
    )


def pool_checks(requests: int) -> list[Check]:
    """The pool's core beside plain LRU, in virtual time."""
    checks = []
    for workload in workloads():
        if workload.name in SIMULATED:
            rows = table(workload, requests, 1, sleeps=False)
            ratio = rows.row(CORE).p95_s / rows.row(LRU).p95_s
            what = f"p95 wait in simulation ({workload.name}, no sleep): core / plain LRU"
            checks.append(Check(what, ratio, SIMULATED[workload.name]))
    return checks


async def measure(effort: Effort) -> list[Check]:
    """All checks."""
    async with step("the pool in simulation"):
        checks = await asyncio.to_thread(pool_checks, effort.simulated)
    with tempfile.TemporaryDirectory(prefix="arena-bench-") as name:
        directory = Path(name)
        checks.append(await start_check(directory, effort.starts))
        async with stand_in(directory, pace=PACE) as engine, arena(engine) as relay, bare(directory, PACE)() as plain:
            checks.append(await first_token_check(relay, plain.side, effort))
            checks += await stream_checks(engine, relay, plain.side, effort)
    return checks


def report(host: dict[str, object], checks: Sequence[Check]) -> Report:
    """The checks, a line each; met if all are ok."""
    figures = {"checks": [asdict(check) | {"ok": check.ok} for check in checks]}
    met = all(check.ok for check in checks)
    return Report("quick", host, [check.line() for check in checks], figures, "every ratio within its bound", met)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Check in a minute that nothing has become grossly slower.")
    parser.add_argument("--tiny", action="store_true", help="a trial run, whose figures mean little")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    effort = TINY if args.tiny else WHOLE
    host = machine()
    found: list[Check] = []

    async def work() -> None:
        found.extend(await measure(effort))
        report(host, found).print(as_json=args.json)

    return run(work) or int(not all(check.ok for check in found))


if __name__ == "__main__":
    sys.exit(main())
