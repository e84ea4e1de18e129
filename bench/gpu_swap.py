"""What sleeping is worth on a GPU: waking against a cold load, memory that stays, and swaps of two models.

Engines: the same model with the same arguments, cold from vLLM's own server and from ours (forked from the zygote),
asleep and awake at both of vLLM's levels, turn by turn; the first load of each kind is not counted, since it fills
caches. Every answer after a wake must be the one before. Then a daemon with room for one of two models: the time from
a request for the one that is away until its first token, with nothing else to do and while four clients keep the other
one busy (`patience_s` is 0: it drains at once); by level, level 0 being stop and load.

Models of 8b where two of them have room, each half of the device. That takes longer than one command may last on some
machines; `--only` and `--levels` share it out over several, `--models` keeps the models from one to the next, and
bench/gpu_swap_parts.py makes one result of them.

    python -m bench.gpu_swap [--runs 3] [--size 8b] [--models DIR] [--only engines|swaps] [--levels 0 1 2] [--json]
    python -m bench.gpu_swap --cpu      # no GPU: the same steps with vLLM's CPU build, to try this program
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from arena_server.engine.base import EngineError
from arena_server.engine.launcher import Launcher
from bench import gpu_program
from bench.completion import complete
from bench.daemon import daemon
from bench.gpu_program import about_lines, goal_of, prepared
from bench.gpu_setup import NAMES, Setup, Subject
from bench.processes import BenchError
from bench.report import Report, Spread, spread, step

BENCH = "gpu_swap"
LEAST_RATIO = 20.0
LEVELS = (1, 2)
STREAMS = 4  # of the traffic
TRAFFIC_TOKENS = 32
ENGINES, SWAPS = "engines", "swaps"


class Engines:
    """Times and sizes of one model's engine, collected over several runs."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.bytes: dict[str, int | None] = {}

    async def vllm(self) -> None:
        """One start of vLLM's own server."""
        self.seconds["vllm"].append(await self._subject.vllms_own_start())

    async def arena(self) -> None:
        """One load, and a sleep and a wake at each level."""
        subject = self._subject
        try:
            self.seconds["load"].append(await subject.load())
            self.bytes["load_peak"] = subject.bytes_of("load_peak_bytes")
            self.bytes["awake"] = subject.bytes_of("awake_bytes")
            self.bytes["weights"] = subject.engine.facts.weights_bytes
            before = await subject.greedy()
            for level in LEVELS:
                self.seconds[f"sleep_{level}"].append(await subject.sleep(level))
                self.bytes[f"asleep_{level}"] = subject.bytes_of("asleep_bytes")
                wake_s = await subject.wake()
                self.seconds[f"wake_{level}"].append(wake_s)
                self.seconds[f"first_token_{level}"].append(wake_s + await subject.first_token())
                if (after := await subject.greedy()) != before:
                    raise BenchError(f"after sleep {level} it answers {after!r}, before it was {before!r}")
        except EngineError as e:
            raise BenchError(f"{subject.name}: {e}") from e
        finally:
            back = await subject.stop()
        if not back:
            raise BenchError(f"the memory of {subject.name} did not come back after its stop")

    def forget_times(self) -> None:
        """The first runs are not counted."""
        self.seconds.clear()


async def measure_engines(setup: Setup, directory: Path, runs: int) -> Engines:
    """All that is measured without a daemon."""
    launcher = Launcher("fork", {})
    engines = Engines(Subject(setup, NAMES[0], launcher, directory))
    try:
        async with step("vLLM's own server, not counted"):
            await engines.vllm()
        async with step("the zygote's imports and its first load, not counted"):
            await engines.arena()
        engines.forget_times()
        for number in range(1, runs + 1):
            async with step(f"vLLM's own server, {number} of {runs}"):
                await engines.vllm()
            async with step(f"arena-server: load, sleeps and wakes, {number} of {runs}"):
                await engines.arena()
    finally:
        await launcher.close()
    return engines


async def measure_swaps(setup: Setup, directory: Path, level: int, runs: int) -> dict[str, Spread]:
    """Seconds until the first token of the model that is away, by what the other one has to do."""
    quiet: list[float] = []
    busy: list[float] = []
    models = {name: setup.model_config(name, sleep_level=level) for name in NAMES}
    pool = {**setup.pool_config(), "patience_s": 0}
    async with step(f"swaps at level {level}"), daemon(directory, models, pool, name=f"level-{level}") as served:
        client = served.client
        for name in NAMES:  # not counted: both are loaded once
            await first_token(client, name)
        for _ in range(runs):
            for name in NAMES:
                quiet.append(await first_token(client, name))
        for _ in range(runs):
            for name, other in (NAMES, NAMES[::-1]):
                async with traffic(client, other):
                    busy.append(await first_token(client, name))
    return {"quiet": spread(quiet), "busy": spread(busy)}


async def first_token(client: aiohttp.ClientSession, model: str) -> float:
    """Seconds from a streaming request to its first token."""
    body = {"model": model, "prompt": "The sea", "max_tokens": 4, "ignore_eos": True, "stream": True}
    began = time.perf_counter()
    took_s = None
    async with client.post("/v1/completions", json=body) as response:
        if response.status != 200:
            raise BenchError(f"{model} answered {response.status}: {await response.text()}")
        async for line in response.content:
            if line.startswith(b"data: {") and b'"choices"' in line and took_s is None:
                took_s = time.perf_counter() - began  # comments before it tell what it waits for
    if took_s is None:
        raise BenchError(f"{model} answered nothing")
    return took_s


@contextlib.asynccontextmanager
async def traffic(client: aiohttp.ClientSession, model: str) -> AsyncIterator[None]:
    """Several clients that keep the model busy, from the first answer of each on."""

    async def keep_asking(begun: asyncio.Event) -> None:
        while True:
            await complete(client, model, {"prompt": "On", "max_tokens": TRAFFIC_TOKENS, "ignore_eos": True})
            begun.set()

    begun = [asyncio.Event() for _ in range(STREAMS)]
    clients: list[asyncio.Future[Any]] = [asyncio.create_task(keep_asking(event)) for event in begun]
    started: asyncio.Future[Any] = asyncio.gather(*(event.wait() for event in begun))
    try:
        # One of the clients ends only by an error.
        await asyncio.wait([started, *clients], return_when=asyncio.FIRST_COMPLETED)
        yield
    finally:
        for task in (started, *clients):
            task.cancel()
        results = await asyncio.gather(started, *clients, return_exceptions=True)
    for result in results:
        if isinstance(result, BenchError):
            raise result


async def measure(args: argparse.Namespace) -> None:
    """Measure and print."""
    async with prepared(args) as made:
        figures: dict[str, Any] = {**made.about, "swap_s": {}}
        if args.only != SWAPS:
            engines = await measure_engines(made.setup, made.directory, args.runs)
            figures["seconds"] = {name: spread(values) for name, values in engines.seconds.items()}
            figures["bytes"] = engines.bytes
        if args.only != ENGINES:
            for level in args.levels:
                figures["swap_s"][str(level)] = await measure_swaps(made.setup, made.directory, level, args.runs)
    report(made.host, figures).print(as_json=args.json)


def report(host: Mapping[str, Any], figures: Mapping[str, Any]) -> Report:
    """The figures in words, with their ratios. The goal is about the engines: without them it is not met."""
    measured = "seconds" in figures
    ratios = _ratios(figures["seconds"]) if measured else {}
    lines = [
        *about_lines(host, figures),
        *(_engine_lines(figures["seconds"], figures["bytes"], ratios) if measured else []),
        *(["Swaps through the daemon, seconds from a request to its first token"] if figures["swap_s"] else []),
    ]
    for level, swap in figures["swap_s"].items():
        lines += [
            f"    level {level}, nothing else to do     {swap['quiet']}",
            f"    level {level}, {STREAMS} clients on the other  {swap['busy']}",
        ]
    goal = f"waking (level 1) at least {LEAST_RATIO:g} times as fast as a cold load by vLLM's own server"
    if not measured and not figures["dry_run"]:
        goal += f" (not measured with --only {SWAPS})"
    met = measured and not figures["dry_run"] and ratios["wake_1"] >= LEAST_RATIO
    return Report(BENCH, host, lines, {**figures, "ratios": ratios}, goal_of(goal, figures), met)


def _ratios(seconds: dict[str, Spread]) -> dict[str, float]:
    kinds = ("load", *(f"wake_{level}" for level in LEVELS))
    return {kind: seconds["vllm"].median / seconds[kind].median for kind in kinds}


def _engine_lines(seconds: dict[str, Spread], sizes: dict[str, int | None], ratios: dict[str, float]) -> list[str]:
    def mib(kind: str) -> str:
        size = sizes[kind]
        return "not measured" if size is None else f"{size / 2**20:,.0f} MiB"

    lines = [
        "Seconds (in the first sleep, at level 1, the canary is asked for the first time)",
        f"    cold, vLLM's own server        {seconds['vllm']}",
        f"    cold, from the zygote          {seconds['load']}   {ratios['load']:.1f} times as fast",
    ]
    for level in LEVELS:
        lines += [
            f"  level {level}",
            f"    falling asleep                 {seconds[f'sleep_{level}']}",
            f"    waking                         {seconds[f'wake_{level}']}   {ratios[f'wake_{level}']:.1f} times",
            f"    waking, and a first token      {seconds[f'first_token_{level}']}",
        ]
    return [
        *lines,
        "Memory on the device",
        f"    most during a load             {mib('load_peak')}",
        f"    awake                          {mib('awake')} (weights {mib('weights')})",
        *(f"    asleep at level {level}              {mib(f'asleep_{level}')}" for level in LEVELS),
    ]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Sleep, wake and swap on a GPU, against cold loads.")
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each kind (3)")
    parser.add_argument("--only", choices=(ENGINES, SWAPS), help="measure only this half")
    parser.add_argument(
        "--levels", type=int, nargs="+", choices=(0, *LEVELS), default=(0, *LEVELS), help="of sleep in swaps (0 1 2)"
    )
    logging.getLogger("arena_server.engine").setLevel(logging.CRITICAL)
    logging.getLogger("arena_server.engine.launcher").setLevel(logging.WARNING)
    return gpu_program.main(BENCH, parser, measure)


if __name__ == "__main__":
    sys.exit(main())
