"""Runs the benchmarks, one after the other, and keeps what each prints as docs/benchmarks/NAME.json.

Each is a process of its own, so that none inherits what another left in memory. One that fails is said, and the others
go on; the exit status is 1 then. A goal that is not met is a result, not a failure. Nothing else should run meanwhile.

    python -m bench.suite [NAME ...] [--peers litellm,fastchat,nginx] [--out docs/benchmarks] [--list]
    python -m bench.suite NAME -- OPTION ...    # gives a benchmark options of its own
    python -m bench.page                # then draws the page from what was kept
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.catalogue import CATALOGUE, Benchmark, Need, chosen
from bench.gpu_setup import why_no_gpu
from bench.processes import run, running
from bench.result import RESULTS, Result, keep

ROOT = Path(__file__).parents[1]
LIMIT_S = 3600.0
# A benchmark ends its own processes in order before it ends: that takes longer than ending one process.
ORDERLY_END_S = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one benchmark: a result, or why there is none."""

    benchmark: Benchmark
    seconds: float = 0.0
    result: Result | None = None
    skipped: str | None = None
    failed: str | None = None

    def row(self) -> str:
        """Its line in the table at the end."""
        if self.result is None:
            said, goal = ("FAILED", self.failed) if self.skipped is None else ("skipped", self.skipped)
        else:
            said, goal = "met" if self.result.met else "NOT MET", self.result.goal
        return f"  {self.benchmark.name:<15} {said:<8} {self.seconds:6.0f} s  {goal}"


def why_skipped(benchmark: Benchmark, peers: str | None) -> str | None:
    """Why this machine, or this call, does not run it; None if it does."""
    if benchmark.need is Need.GPU:
        return why_no_gpu()
    if benchmark.need is Need.PEERS and peers is None:
        return "only with --peers litellm,fastchat,nginx: it installs them"
    return None


def outcome_of(
    benchmark: Benchmark, command: str, commit: str, began: datetime, took_s: float, status: int, output: str
) -> Outcome:
    """Read what a benchmark printed; `output` ends with its JSON if all went well."""
    last = (output.splitlines() or [""])[-1]
    report = None
    with contextlib.suppress(json.JSONDecodeError):
        report = json.loads(last)
    if status != 0 or not isinstance(report, dict):
        return Outcome(benchmark, took_s, failed=f"ended with status {status}{'' if report else ', and no report'}")
    if "skipped" in report:
        return Outcome(benchmark, took_s, skipped=report["skipped"])
    try:
        result = Result(command=command, began=began, seconds=took_s, commit=commit, **report)
    except TypeError as e:
        return Outcome(benchmark, took_s, failed=f"printed no report: {e}")
    return Outcome(benchmark, took_s, result=result)


async def run_one(benchmark: Benchmark, options: Sequence[str], commit: str) -> Outcome:
    """Run it; its progress is seen as it comes, its lines when it has ended."""
    argv = ("-m", f"bench.{benchmark.name}", *options, "--json")
    began, clock = datetime.now(UTC), time.monotonic()
    async with running(*argv, stdout=asyncio.subprocess.PIPE) as process:
        try:
            async with asyncio.timeout(LIMIT_S):
                output = (await process.communicate())[0].decode()
        except TimeoutError:
            output = f"not done after {LIMIT_S:g} s"
        finally:
            await end_in_order(process)
    status = process.returncode
    assert status is not None
    outcome = outcome_of(
        benchmark, shlex.join(("python", *argv)), commit, began, time.monotonic() - clock, status, output
    )
    shown = output.splitlines()[: None if outcome.failed else -1]  # the JSON is for the file
    print("\n".join(shown), flush=True)
    return outcome


async def end_in_order(process: asyncio.subprocess.Process) -> None:
    """Let a benchmark that still runs end what it has started."""
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ORDERLY_END_S):
                await process.wait()


def commit_now() -> str:
    """What is measured, as git calls it. Documents apart: the results themselves are among them."""
    try:
        name = subprocess.run(
            ("git", "describe", "--always"), cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(("git", "diff", "--quiet", "HEAD", "--", ".", ":(exclude)docs"), cwd=ROOT, check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changed.returncode else name


async def run_all(
    benchmarks: Sequence[Benchmark], peers: str | None, out: Path, options: Sequence[str] = ()
) -> list[Outcome]:
    """Run them in turn, keep their results in `out` as they come, and tell what became of each."""
    outcomes = []
    for number, benchmark in enumerate(benchmarks, 1):
        print(f"\n== {benchmark.name} ({number} of {len(benchmarks)}): {benchmark.what}", flush=True)
        if (reason := why_skipped(benchmark, peers)) is not None:
            outcome = Outcome(benchmark, skipped=reason)
        else:
            of_peers = ("--peers", peers) if benchmark.need is Need.PEERS and peers is not None else ()
            outcome = await run_one(benchmark, (*of_peers, *options), commit_now())
        if outcome.result is None:
            print(f"skipped: {outcome.skipped}" if outcome.failed is None else f"FAILED: {outcome.failed}", flush=True)
        else:
            keep(out / f"{benchmark.name}.json", outcome.result)
        outcomes.append(outcome)
    return outcomes


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The suite's own arguments, and after `--` those of the benchmark."""
    own = list(itertools.takewhile(lambda argument: argument != "--", argv))
    return own, list(argv[len(own) + 1 :])


def main() -> int:
    """The command line."""
    argv, options = split(sys.argv[1:])
    parser = argparse.ArgumentParser(description="Run the benchmarks and keep their results.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks (all that this machine can run)")
    parser.add_argument("--peers", metavar="A,B", help="run `peers` too, with these: litellm,fastchat,nginx")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results are kept (docs/benchmarks)")
    parser.add_argument("--list", action="store_true", help="only say which benchmarks there are")
    parser.epilog = "What comes after -- is given to the benchmark, of which there must be one then."
    args = parser.parse_args(argv)
    if options and len(args.names) != 1:
        parser.error(f"{' '.join(options)} is for one benchmark: name it")
    try:
        benchmarks = chosen(args.names)
    except KeyError as e:
        parser.error(f"no benchmark is called {e}; there are {', '.join(b.name for b in CATALOGUE)}")
    if args.list:
        for benchmark in benchmarks:
            reason = why_skipped(benchmark, args.peers)
            print(f"{benchmark.name:<15} {benchmark.what}{f' (skipped: {reason})' if reason else ''}")
        return 0
    outcomes: list[Outcome] = []

    async def work() -> None:
        outcomes.extend(await run_all(benchmarks, args.peers, args.out, options))

    status = run(work)
    if status == 0:
        print("\n" + "\n".join(outcome.row() for outcome in outcomes))
        return int(any(outcome.failed for outcome in outcomes))
    return status


if __name__ == "__main__":
    sys.exit(main())
