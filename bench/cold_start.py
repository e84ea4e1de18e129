"""A model's cold start: arena-server's way, forked from the zygote, against vLLM's own server, turn by turn.

Both load the same model with the same command line and environment. arena-server: from `VllmEngine.load()`, which
is what its pool calls for a model that is not there, with the zygote up (as it is in a running daemon), until the
engine's `GET /health` is 200. vLLM: from the launch of the process until the same. The first run of each is not
counted: it warms the page cache and vLLM's own caches; the zygote's first is printed apart.

    python -m bench.cold_start [--runs 3] [--json]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
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
from arena_server.engine.vllm import VllmEngine
from arena_server.gpu.probe import open_probe
from bench.processes import BenchError, run, running, until_healthy
from bench.report import Report, Spread, machine, spread, step

LEAST_RATIO = 12.0
START_LIMIT_S = 600.0
VLLM_SERVER = "vllm.entrypoints.openai.api_server"
ENGINE_ARGS = {"max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 64 << 20}
# For both sides. On CPU, threads bound to the same cores or too many of them would slow either.
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the order until `GET /health` was 200, and until the first token had been answered after that."""

    healthy_s: float
    answered_s: float


class ColdStart:
    """Starts one model in both ways."""

    def __init__(self, model: DemoModel, directory: Path) -> None:
        """Sockets and logs go to `directory`."""
        self._directory = directory
        self._name = model.name
        gpu = open_probe().gpu
        config = ModelConfig(model=str(model.path), gpu_memory_utilization=0.05, engine_args=ENGINE_ARGS)
        self._command = partial(engine_command, model.name, config, (0,), gpu=gpu)
        self.launcher = Launcher("fork", {})
        self._engine = VllmEngine(model.name, self.launcher, directory / "a", self._command, START_LIMIT_S)

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
        began = time.perf_counter()
        try:
            await self._engine.load()
            healthy = time.perf_counter()
            await self._first_token(self._directory / "a")
            return Start(healthy - began, time.perf_counter() - began)
        except EngineError as e:
            raise BenchError(f"the engine did not start: {e}") from e
        finally:
            await self._engine.stop()

    async def vllm(self) -> Start:
        """One cold start of vLLM's own server."""
        directory = Path(tempfile.mkdtemp(prefix="v-", dir=self._directory))
        command = self._command(directory)
        log = directory / "log"
        with log.open("wb") as output:
            began = time.perf_counter()
            async with running(
                *("-m", VLLM_SERVER, *command.argv), env=command.env, stdout=output, stderr=output
            ) as process:
                async with _client(directory) as client:
                    await until_healthy(client, process, START_LIMIT_S, log)
                healthy = time.perf_counter()
                await self._first_token(directory)
                return Start(healthy - began, time.perf_counter() - began)

    async def _first_token(self, directory: Path) -> None:
        body = {"model": self._name, "prompt": "The sea", "max_tokens": 1}
        async with _client(directory) as client, client.post("/v1/completions", json=body) as response:
            if response.status != 200:
                raise BenchError(f"the engine answered {response.status}: {await response.text()}")


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
        "vllm_s": spread([s.healthy_s for s in vllm]),
        "arena_s": spread([s.healthy_s for s in arena]),
        "vllm_first_token_s": spread([s.answered_s for s in vllm]),
        "arena_first_token_s": spread([s.answered_s for s in arena]),
        "vllm_uncounted_s": uncounted.healthy_s,
        "zygote_imports_s": imports_s,
        "zygote_resident_mib": resident_bytes / 2**20,
        "zygote_first_load_s": first.healthy_s,
    }
    report(host, figures).print(as_json=args.json)


def report(host: dict[str, Any], figures: dict[str, Any]) -> Report:
    """The figures in words, with their ratios."""
    vllm: Spread = figures["vllm_s"]
    arena: Spread = figures["arena_s"]
    ratio = vllm.median / arena.median
    ratio_first_token = figures["vllm_first_token_s"].median / figures["arena_first_token_s"].median
    lines = [
        f"Cold start of {figures['model']}, seconds until GET /health is 200",
        f"    vLLM's own server        {vllm}   from the launch of `python -m {VLLM_SERVER}`",
        f"    arena-server             {arena}   from VllmEngine.load(), with the zygote up",
        f"    ratio of medians         {ratio:.1f}",
        "until the first token",
        f"    vLLM's own server        {figures['vllm_first_token_s']}",
        f"    arena-server             {figures['arena_first_token_s']}",
        f"    ratio of medians         {ratio_first_token:.1f}",
        "Not counted",
        f"    vLLM's first run         {figures['vllm_uncounted_s']:.2f}",
        f"    the zygote, once         {figures['zygote_imports_s']:.2f} for its imports, "
        f"then {figures['zygote_resident_mib']:,.0f} MiB resident",
        f"    the zygote's first load  {figures['zygote_first_load_s']:.2f}",
    ]
    goal = f"a cold start at least {LEAST_RATIO:g} times as fast as vLLM's own server"
    ratios = {"ratio": ratio, "ratio_first_token": ratio_first_token}
    return Report("cold_start", host, lines, {**figures, **ratios}, goal, ratio >= LEAST_RATIO)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="A model's cold start through arena-server and through vLLM's server.")
    parser.add_argument("--runs", type=int, default=3, help="counted cold starts a side (3)")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    logging.getLogger("arena_server.engine").setLevel(logging.CRITICAL)
    logging.getLogger("arena_server.engine.launcher").setLevel(logging.WARNING)
    return run(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
