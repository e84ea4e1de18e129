"""An evening at the arena over six models with room for three, on real vLLM (CPU), against a plain-LRU daemon.

Both daemons serve the demo's models, each under two names, with the same engine arguments, and both start their engines
from arena-server's zygote (see lru.py for what the baseline does, trace.py for what is asked). On a CPU nothing
sleeps: who leaves is stopped, who comes is loaded.

- Two cold models asked for at once, nothing else up: seconds to the first text of both.
- The same where two other models are in use and there is room for one more.
- The evening: battles of two, in blocks that both sides play in turn, each from a state with nothing loaded; the time
  between battles counts in cold loads, which are measured before, so that it is as hard on any machine.

A wait is from asking to the first text of the side that begins later. arena-server is asked as its page asks: one
request for both models. The plain LRU knows no pairs: it gets a request for each, at the same time.

    python -m bench.evening [--battles 200] [--runs 3] [--seed 1] [--json]      # 200 battles take 15 to 20 minutes
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.evening import pairs
from bench.evening.contenders import Contender, both, demo_models
from bench.evening.judge import Found, judged
from bench.evening.play import play
from bench.evening.trace import Battle, evening
from bench.processes import run
from bench.report import machine, step
from bench.vllm_server import CPU_ENVIRONMENT

BLOCKS = 4
LEAST_BLOCK = 4  # battles: each block begins with nothing loaded, which must not be all that it is about


async def measure(args: argparse.Namespace) -> None:
    """Measure and print."""
    host = machine()
    found = Found()
    with tempfile.TemporaryDirectory(prefix="arena-") as name:
        directory = Path(name)
        configured = demo_models(directory / "models")
        models = list(configured)
        async with both(directory, configured) as sides:
            await measure_loads(sides, models, max(1, args.runs), found)
            await measure_pairs(sides, models, args.runs, found)
            blocks = evening(models, args.battles, max(1, min(BLOCKS, args.battles // LEAST_BLOCK)), args.seed)
            await measure_evening(sides, blocks, found)
    judged(host, found, models, blocks, args.seed).print(as_json=args.json)


async def measure_loads(sides: Sequence[Contender], models: Sequence[str], runs: int, found: Found) -> None:
    """Cold loads of single models, in turn: what the trace's times count in."""
    async with step("the zygotes' imports, and a first load on each side, not counted"):
        await asyncio.gather(*(pairs.load_s(side, models[0]) for side in sides))
        await asyncio.gather(*(side.stop_all() for side in sides))
    for number in range(runs):
        for side in sides:
            async with step(f"{side.name}: a cold load, {number + 1} of {runs}"):
                found.load_s[side.name].append(await pairs.load_s(side, models[number % len(models)]))
                await side.stop_all()


async def measure_pairs(sides: Sequence[Contender], models: Sequence[str], runs: int, found: Found) -> None:
    """Pairs that have to be loaded, in turn."""
    for number in range(runs):
        a, b, c, d = (models[(number + place) % len(models)] for place in range(4))
        for side in sides:
            async with step(f"{side.name}: two cold models, {number + 1} of {runs}"):
                found.cold[side.name].append(await pairs.cold(side, (a, b)))
                await side.stop_all()
        for side in sides:
            async with step(f"{side.name}: two cold models, two others in use, {number + 1} of {runs}"):
                found.in_use[side.name].append(await pairs.in_use(side, (c, d), (a, b)))
                await side.stop_all()


async def measure_evening(sides: Sequence[Contender], blocks: Sequence[Sequence[Battle]], found: Found) -> None:
    """Each block on both sides, in turn."""
    found.unit_s = statistics.median([seconds for loads in found.load_s.values() for seconds in loads])
    asked_s = [block[-1].at_loads * found.unit_s for block in blocks]
    for number, block in enumerate(blocks):
        for place, side in enumerate(sides):
            left_s = sum(asked_s[number:]) * len(sides) - place * asked_s[number]
            what = f"{side.name}: {len(block)} battles, block {number + 1} of {len(blocks)}"
            async with step(f"{what}; about {left_s / 60:.1f} minutes to go"):
                await play(side, block, found.unit_s, found.evenings[side.name])
                await side.stop_all()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="An evening at the arena, against a plain-LRU daemon.")
    parser.add_argument("--battles", type=int, default=200, help="battles of the evening (200)")
    parser.add_argument("--runs", type=int, default=3, help="measurements of pairs before it (3); 0: none")
    parser.add_argument("--seed", type=int, default=1, help="of the evening (1)")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    if args.battles < 1:
        parser.error("an evening has at least one battle")
    os.environ.update(CPU_ENVIRONMENT)
    logging.getLogger("arena_server.engine").setLevel(logging.CRITICAL)
    return run(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
