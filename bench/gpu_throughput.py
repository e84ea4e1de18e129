"""Throughput on a GPU: the daemon against its engine's own socket and against vLLM's own server.

One model, two engines side by side on the device: the daemon's, which is asked through the daemon and on its own
socket, and that of vLLM's own server on TCP, with the same arguments; only sleep mode, which the daemon's engine has
as every engine of the daemon that can sleep, vLLM's server lacks, as most run it. One is asked at a time, turn by
turn; all streams ask the same, so vLLM's prefix cache serves the prompt after the first time.

    python -m bench.gpu_throughput [--streams 64] [--tokens 256] [--rounds 4] [--size 8b] [--models DIR] [--json]
    python -m bench.gpu_throughput --cpu      # no GPU: the same steps with vLLM's CPU build, to try this program
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from arena_server.config_model import ModelConfig
from arena_server.engine.command import engine_command
from bench import gpu_program
from bench.client import Demand, Load, Target, many_streams
from bench.completion import complete
from bench.daemon import daemon
from bench.gpu_program import about_lines, goal_of, prepared
from bench.gpu_setup import NAMES, START_LIMIT_S, Setup
from bench.own_cpu import own_cpu_s
from bench.report import Report, percentile, spread, step
from bench.vllm_server import launched_on_tcp

LEAST_RATIO = 0.98
FRACTION = 0.4  # of the device, for each engine
MODEL = NAMES[0]
ARENA, SOCKET, VLLM = "arena-server", "engine's socket", "vLLM's server"


@dataclass(frozen=True, slots=True)
class Ways:
    """Where the same model answers, all up; and the daemon's own process."""

    targets: Sequence[Target]
    daemon: psutil.Process

    def daemon_cpu_s(self) -> float:
        """CPU seconds of the daemon so far, without its engine."""
        return own_cpu_s(self.daemon.pid)


def way(name: str, address: str | int) -> Target:
    """One of them; a real engine may be ahead of its clients."""
    return Target(name, address, MODEL, merges=True)


@contextlib.asynccontextmanager
async def ways(setup: Setup, directory: Path) -> AsyncIterator[Ways]:
    """All of them. The engines start one after the other: each measures what is free on the device."""
    fraction = FRACTION if setup.gpu else setup.alone
    part = setup.model_config(MODEL, gpu_memory_utilization=fraction)
    async with daemon(directory, {MODEL: part}) as served:
        async with step("the zygote's imports, and the load of the daemon's engine"):
            await complete(served.client, MODEL)
        own = directory / "v"
        own.mkdir()
        config = ModelConfig.model_validate({**part, "sleep_level": 0})
        command = engine_command(MODEL, config, (setup.device,), own, gpu=setup.gpu)
        async with launched_on_tcp(command, own / "log") as vllm:
            async with step("vLLM's own server"):
                await vllm.until_up(START_LIMIT_S)
            addresses: dict[str, str | int] = {ARENA: served.port, SOCKET: str(served.engine_socket), VLLM: vllm.port}
            yield Ways([way(name, address) for name, address in addresses.items()], served.process)


async def warm_up(target: Target, streams: int, tokens: int) -> float:
    """As many answers at once as will be asked for; returns the seconds they took."""
    connections = [await target.connect() for _ in range(streams)]
    request = target.chat_request(tokens)
    began = time.perf_counter()
    try:
        await asyncio.gather(*(connection.ask(request, tokens) for connection in connections))
    finally:
        for connection in connections:
            connection.close()
    return time.perf_counter() - began


async def measure_ways(up: Ways, args: argparse.Namespace) -> dict[str, list[Load]]:
    """The rounds of each way, in turn; who is first changes from round to round."""
    async with step("all streams once, not counted"):
        for target in up.targets:
            await warm_up(target, args.streams, args.tokens)
        answer_s = max([await warm_up(target, args.streams, args.tokens) for target in up.targets])
    demand = Demand(args.streams, args.tokens, answer_s, max(args.seconds, answer_s))
    loads: dict[str, list[Load]] = {target.name: [] for target in up.targets}
    for number in range(args.rounds):
        first = number % len(up.targets)
        async with step(f"{args.streams} streams, round {number + 1} of {args.rounds}: {demand.seconds:.0f} s each"):
            for target in (*up.targets[first:], *up.targets[:first]):
                loads[target.name].append(await many_streams(target, demand, up.daemon_cpu_s))
    return loads


def figures_of(loads: dict[str, list[Load]]) -> dict[str, Any]:
    """Of each way, and of the daemon against each of the others, round by round."""
    rates = {name: [load.tokens_per_s for load in found] for name, found in loads.items()}
    found: dict[str, Any] = {"tokens_per_s": {name: spread(values) for name, values in rates.items()}}
    found["tokens_per_s_by_round"] = rates
    for other in (SOCKET, VLLM):
        ratios = [a / b for a, b in zip(rates[ARENA], rates[other], strict=True)]
        found[f"ratio_to_{'socket' if other == SOCKET else 'vllm'}"] = spread(ratios)
    for kind in ("first_token_ms", "per_token_ms"):
        found[kind] = {}
    for name, each in loads.items():
        answers = [answer for load in each for answer in load.answers]
        first, per_token = ([getattr(a, f) * 1000 for a in answers] for f in ("first_s", "per_token_s"))
        found["first_token_ms"][name] = {"p50": percentile(first, 50), "p99": percentile(first, 99)}
        found["per_token_ms"][name] = {"p50": percentile(per_token, 50), "p99": percentile(per_token, 99)}
    of_daemon = loads[ARENA]
    found["daemon_cpu_share_of_a_core"] = sum(load.cpu_s for load in of_daemon) / sum(
        load.seconds for load in of_daemon
    )
    return found


async def measure(args: argparse.Namespace) -> None:
    """Measure and print."""
    async with prepared(args) as made, ways(made.setup, made.directory) as up:
        loads = await measure_ways(up, args)
    asked = {**made.about, "streams": args.streams, "tokens": args.tokens, "rounds": args.rounds}
    report(made.host, {**asked, **figures_of(loads)}).print(as_json=args.json)


def report(host: Mapping[str, Any], figures: Mapping[str, Any]) -> Report:
    """The figures in words, and the verdict."""
    first, per_token = figures["first_token_ms"], figures["per_token_ms"]
    lines = [
        *about_lines(host, figures),
        f"{figures['streams']} streams of {figures['tokens']} tokens, {figures['rounds']} rounds in turn",
    ]
    for name, rate in figures["tokens_per_s"].items():
        lines += [
            f"    {name:<16} {rate} tokens/s",
            f"                     first token p50 {first[name]['p50']:.1f} ms, p99 {first[name]['p99']:.1f}; then one "
            f"each {per_token[name]['p50']:.2f} ms, p99 {per_token[name]['p99']:.2f}",
        ]
    lines += [
        f"arena-server's rate to its engine's socket  {figures['ratio_to_socket']}",
        f"arena-server's rate to vLLM's own server    {figures['ratio_to_vllm']}",
        f"The daemon itself used {figures['daemon_cpu_share_of_a_core']:.0%} of a core while it was asked.",
    ]
    goal = f"at least {LEAST_RATIO:g} of the tokens/s of its engine's socket, and of vLLM's own server (medians)"
    ratios = (figures["ratio_to_socket"].median, figures["ratio_to_vllm"].median)
    met = not figures["dry_run"] and min(ratios) >= LEAST_RATIO
    return Report("gpu_throughput", host, lines, figures, goal_of(goal, figures), met)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Throughput on a GPU, against vLLM's own server.")
    parser.add_argument("--streams", type=int, default=64, help="streams at once (64)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of an answer (256)")
    parser.add_argument("--seconds", type=float, default=8, help="of a round, at least an answer's (8)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of each way (4)")
    return gpu_program.main("gpu_throughput", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
