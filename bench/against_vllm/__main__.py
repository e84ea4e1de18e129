"""What the daemon costs beside real vLLM: against the engine's own socket, and against vLLM's own server on TCP.

One model, three ways to it, asked in turn by vLLM's own benchmark (`vllm bench serve`) with the same requests. Both
engines, the daemon's and that of vLLM's server, have the same arguments and environment and are up all the time; one
is asked at a time, and what both use while nobody asks is measured first.

    python -m bench.against_vllm [--rounds 12] [--clients 1 8 16] [--tokens 64] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.against_vllm.figures import report
from bench.against_vllm.servers import ENGINE_ARGS, WAYS, Servers, servers
from bench.against_vllm.tool import Result, Round
from bench.processes import BenchError, run, running
from bench.report import machine, step

PROMPT_TOKENS = 64
FEWEST_ANSWERS = 10
ANSWERS_OF_A_CLIENT = 4
# vLLM's tool is imported (half a minute on a busy machine) before its first result.
RESULT_LIMIT_S = 300.0


def rounds(addresses: Mapping[str, str | int], count: int, clients: Sequence[int], tokens: int) -> list[list[Round]]:
    """What is asked, round by round, in all orders of the three in turn: none always follows the same one."""

    def one(seed: int, way: str, number: int) -> Round:
        answers = max(FEWEST_ANSWERS, ANSWERS_OF_A_CLIENT * number)
        return Round(way, addresses[way], number, answers, PROMPT_TOKENS, tokens, seed)

    orders = itertools.islice(itertools.cycle(itertools.permutations(WAYS)), count)
    return [[one(seed, way, n) for n in clients for way in ways] for seed, ways in enumerate(orders)]


@contextlib.asynccontextmanager
async def tool(up: Servers, planned: Sequence[Round], log: Path) -> AsyncIterator[asyncio.StreamReader]:
    """vLLM's tool at work on these rounds; yields its results, a line each."""
    plan = {
        "model": up.model.name,
        "tokenizer": str(up.model.path),
        "daemon": up.daemon.pid,
        "rounds": [asdict(r) for r in planned],
    }
    path = log.with_suffix(".json")
    path.write_text(json.dumps(plan))
    with log.open("wb") as said:
        async with running(
            *("-m", "bench.against_vllm.tool", str(path)), stdout=asyncio.subprocess.PIPE, stderr=said
        ) as process:
            assert process.stdout is not None
            yield process.stdout


async def next_result(lines: asyncio.StreamReader, log: Path) -> Result:
    """The next one. Raises BenchError if the tool has ended, hangs or had an answer that failed."""
    line = b""
    with contextlib.suppress(TimeoutError):
        line = await asyncio.wait_for(lines.readline(), RESULT_LIMIT_S)
    if not line:
        said = await asyncio.to_thread(log.read_text)
        raise BenchError(f"vLLM's benchmark gave no result; the end of what it said:\n{said[-2000:]}")
    result = Result(**json.loads(line))
    if result.failed:
        raise BenchError(f"{result.failed} answers of {result.way} failed at {result.clients} clients")
    return result


async def measure(args: argparse.Namespace) -> None:
    """Measure and print."""
    host = machine()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="arena-bench-") as path:
        directory = Path(path)
        async with contextlib.AsyncExitStack() as stack:
            async with step("starting the daemon with its engine, and vLLM's own server"):
                up = await stack.enter_async_context(servers(directory))
            idle = await up.idle_cores()
            planned = rounds(up.addresses, args.rounds, args.clients, args.tokens)
            log = directory / "tool.log"
            lines = await stack.enter_async_context(tool(up, [r for each in planned for r in each], log))
            for number, each in enumerate(planned, 1):
                async with step(f"round {number} of {args.rounds}: {len(each)} runs of `vllm bench serve`"):
                    results += [await next_result(lines, log) for _ in each]
            about = {
                **{"model": up.model.name, "engine_args": ENGINE_ARGS, "rounds": args.rounds},
                **{"tokens": args.tokens, "prompt_tokens": PROMPT_TOKENS, "idle_cores": idle},
            }
    report(host, about, results).print(as_json=args.json)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="arena-server beside its engine's own socket and vLLM's own server.")
    parser.add_argument("--rounds", type=int, default=12, help="times that each way is asked (12)")
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[1, 8, 16], help="how many ask at a time (1 8 16); the goal is "
        "for the fewest and for the most"
    )  # fmt: skip
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer, give or take half of it (64)")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    return run(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
