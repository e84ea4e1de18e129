"""A model's cold start: arena-server's way, forked from the zygote, against vLLM's own server, turn by turn.

Both load the same model with the same command line and environment. arena-server: from `VllmEngine.load()`, which
is what its pool calls for a model that is not there, with the zygote up (as it is in a running daemon), until the
engine's `GET /health` is 200. vLLM: from the launch of the process until the same. The phases are told by what both
print, as it comes out of a pipe (bench/cold_phases.py). The first run of each is not counted: it warms the page
cache and vLLM's own caches; the zygote's first is printed apart.

    python -m bench.cold_start [--runs 3] [--json]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from arena_server.config_model import ModelConfig
from arena_server.demo.models import DemoModel, make_demo_models
from arena_server.engine.base import EngineError
from arena_server.engine.command import engine_command
from arena_server.engine.launcher import Launcher
from arena_server.engine.output import EngineOutput
from arena_server.engine.vllm import VllmEngine
from arena_server.gpu.probe import open_probe
from bench.cold_phases import NAMES, PHASES, WEIGHTS, UnknownLog, fixed_s, phases
from bench.completion import complete
from bench.processes import BenchError, run, until_healthy
from bench.report import Report, Spread, machine, spread, step
from bench.vllm_server import CPU_ENVIRONMENT, MODULE, launched

LEAST_RATIO = 15.0
START_LIMIT_S = 600.0
ENGINE_ARGS = {"max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 64 << 20}


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the order until `GET /health` was 200 and until a first token after that; and of each phase."""

    healthy_s: float
    answered_s: float
    phase_s: dict[str, float]


class Printed(logging.Handler):
    """The lines of one start, with the seconds since it was ordered."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.perf_counter()
        self.lines: list[tuple[float, str]] = []

    def line(self, line: str) -> None:
        """Take one line, which has just come."""
        self.lines.append((time.perf_counter() - self.began, line))

    def emit(self, record: logging.LogRecord) -> None:
        """Take one that the daemon's own code logs: its last argument is the engine's line."""
        if isinstance(record.args, tuple) and record.args:
            self.line(str(record.args[-1]))

    def start(self, healthy_s: float, answered_s: float) -> Start:
        """What these lines say of a start."""
        try:
            return Start(healthy_s, answered_s, phases(self.lines, healthy_s))
        except UnknownLog as e:
            raise BenchError(f"{e}; it said:\n" + "\n".join(line for _, line in self.lines)) from e


class ColdStart:
    """Starts one model in both ways."""

    def __init__(self, model: DemoModel, directory: Path) -> None:
        """Sockets go to `directory`."""
        self._directory = directory
        self._name = model.name
        gpu = open_probe().gpu
        config = ModelConfig(model=str(model.path), gpu_memory_utilization=0.05, engine_args=ENGINE_ARGS)
        self._command = partial(engine_command, model.name, config, (0,), gpu=gpu)
        self.launcher = Launcher("fork", {})
        self._engine = VllmEngine(model.name, self.launcher, directory / "a", self._command, START_LIMIT_S)
        self._logger = logging.getLogger("arena_server.engine")

    async def start_zygote(self) -> tuple[float, float]:
        """Start it; returns the seconds until it could fork, and the bytes it then holds."""
        began = time.perf_counter()
        await self.launcher.warm_up()
        # It answers when its imports are done, here by forking an engine that is killed at once.
        process = await self.launcher.launch("none", [], {}, sys.stderr.fileno())
        took_s = time.perf_counter() - began
        self.launcher.kill(process)
        await process.exited
        return took_s, float(psutil.Process(self.launcher.zygote_pid).memory_info().rss)

    async def arena(self) -> Start:
        """One cold start through the zygote."""
        printed = Printed()
        self._logger.addHandler(printed)
        try:
            await self._engine.load()
            healthy_s = time.perf_counter() - printed.began
            await self._first_token(self._directory / "a")
            return printed.start(healthy_s, time.perf_counter() - printed.began)
        except EngineError as e:
            raise BenchError(f"the engine did not start: {e}") from e
        finally:
            self._logger.removeHandler(printed)
            await self._engine.stop()

    async def vllm(self) -> Start:
        """One cold start of vLLM's own server."""
        directory = Path(tempfile.mkdtemp(prefix="v-", dir=self._directory))
        command = self._command(directory)
        printed = Printed()
        output = EngineOutput(printed.line, lambda _: None)  # the daemon's reader, so that lines come alike
        log_fd = await output.open()
        try:
            printed.began = time.perf_counter()
            async with launched(command, log_fd) as process:
                async with _client(directory) as client:
                    await until_healthy(client, process, START_LIMIT_S)
                healthy_s = time.perf_counter() - printed.began
                await self._first_token(directory)
                return printed.start(healthy_s, time.perf_counter() - printed.began)
        except BenchError as e:
            raise BenchError(f"vLLM's own server: {e}\n" + "\n".join(list(output.tail)[-20:])) from e
        finally:
            os.close(log_fd)
            await output.drained(1)

    async def _first_token(self, directory: Path) -> None:
        async with _client(directory) as client:
            await complete(client, self._name)


def _client(directory: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession("http://engine", connector=aiohttp.UnixConnector(str(directory / "http.sock")))


async def measure(args: argparse.Namespace) -> None:
    """Measure and print."""
    host = machine()
    with tempfile.TemporaryDirectory(prefix="arena-bench-") as directory:
        model = make_demo_models(Path(directory, "models"), report=lambda _: None)[0]
        bench = ColdStart(model, Path(directory))
        vllm: list[Start] = []
        arena: list[Start] = []
        async with step("vLLM's own server, not counted"):
            uncounted = await bench.vllm()
        try:
            async with step("the zygote's imports"):
                imports_s, resident_bytes = await bench.start_zygote()
            async with step("the zygote's first load, not counted"):
                first = await bench.arena()
            for number in range(1, args.runs + 1):
                async with step(f"vLLM's own server, {number} of {args.runs}"):
                    vllm.append(await bench.vllm())
                async with step(f"arena-server, {number} of {args.runs}"):
                    arena.append(await bench.arena())
        finally:
            await bench.launcher.close()
    figures = {
        "model": model.name,
        "runs": args.runs,
        "vllm": side(vllm),
        "arena": side(arena),
        "vllm_uncounted_s": uncounted.healthy_s,
        "zygote_imports_s": imports_s,
        "zygote_resident_mib": resident_bytes / 2**20,
        "zygote_first_load_s": first.healthy_s,
    }
    report(host, figures).print(as_json=args.json)


def side(starts: Sequence[Start]) -> dict[str, Any]:
    """One side's counted starts, summed up."""
    return {
        "fixed_s": spread([fixed_s(start.phase_s) for start in starts]),
        "healthy_s": spread([start.healthy_s for start in starts]),
        "first_token_s": spread([start.answered_s for start in starts]),
        "phase_s": {name: spread([start.phase_s[name] for start in starts]) for name in NAMES},
    }


def report(host: dict[str, Any], figures: dict[str, Any]) -> Report:
    """The figures in words, with their ratios."""
    vllm, arena = figures["vllm"], figures["arena"]
    ratios = {f"ratio_{what}": _ratio(vllm[f"{what}_s"], arena[f"{what}_s"]) for what in ("healthy", "first_token")}
    ratio = _ratio(vllm["fixed_s"], arena["fixed_s"])
    phase_ratios = {name: _ratio(vllm["phase_s"][name], arena["phase_s"][name]) for name in NAMES}
    lines = [
        f"Cold start of {figures['model']}, seconds, {figures['runs']} of each",
        f"vLLM's own server: from the launch of `python -m {MODULE}`",
        "arena-server: from VllmEngine.load(), with the zygote up",
        "",
        *_row("fixed cost", vllm["fixed_s"], arena["fixed_s"], ratio),
        f"    that is: until GET /health is 200, less the phase {WEIGHTS}",
        *_row("until GET /health is 200", vllm["healthy_s"], arena["healthy_s"], ratios["ratio_healthy"]),
        *_row("until the first token", vllm["first_token_s"], arena["first_token_s"], ratios["ratio_first_token"]),
        "",
        "By phase",
    ]
    for name, what, _ in PHASES:
        lines += _row(f"{name}: {what}", vllm["phase_s"][name], arena["phase_s"][name], phase_ratios[name])
    lines += [
        "",
        "Not counted, and paid once in the daemon's life",
        f"    the zygote               {figures['zygote_imports_s']:.2f} for its imports, "
        f"then {figures['zygote_resident_mib']:,.0f} MiB resident",
        f"    its first load           {figures['zygote_first_load_s']:.2f}",
        f"    vLLM's first run         {figures['vllm_uncounted_s']:.2f}",
        "What flatters arena-server: a daemon has the zygote's imports behind it; who asks sooner waits for their end.",
        "With a model this small nearly all of a start is fixed cost; a larger one's weights add to both sides alike.",
        "Both run without compiling and with a KV cache of a given size, which keeps their warm-up short.",
    ]
    goal = f"a fixed cost at least {LEAST_RATIO:g} times smaller than that of vLLM's own server (medians)"
    all_ratios = {"ratio": ratio, **ratios, "ratio_by_phase": phase_ratios}
    return Report("cold_start", host, lines, {**figures, **all_ratios}, goal, ratio >= LEAST_RATIO)


def _ratio(vllm: Spread, arena: Spread) -> float:
    """Of the medians. A phase too short to see (under a millisecond) counts as one."""
    return vllm.median / max(arena.median, 0.001)


def _row(what: str, vllm: Spread, arena: Spread, ratio: float) -> list[str]:
    return [what, f"    vLLM's own server  {vllm}", f"    arena-server       {arena}   {ratio:.1f} times smaller"]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="A model's cold start through arena-server and through vLLM's server.")
    parser.add_argument("--runs", type=int, default=3, help="counted cold starts a side (3)")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    os.environ.update(CPU_ENVIRONMENT)
    engines = logging.getLogger("arena_server.engine")
    engines.setLevel(logging.INFO)  # what engines say is read, not shown
    engines.propagate = False
    warnings = logging.StreamHandler()  # of the zygote's, such as that it cannot fork
    warnings.setLevel(logging.WARNING)
    logging.getLogger("arena_server.engine.launcher").addHandler(warnings)
    return run(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
