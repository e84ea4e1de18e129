"""The daemon as a user starts it, with models that nobody asks for, and the bare application: up, and what they use."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import psutil

from arena_server.demo.daemon import free_port
from bench.client import Target
from bench.own_cpu import own_cpu_s
from bench.processes import BenchError, running, until_healthy
from bench.sides import START_LIMIT_S, Side

MODELS = 6
SETTLE_LIMIT_S = 180.0
# Of a core, in a second: still at its imports above it.
BUSY = 0.02
QUIET_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Launched:
    """A server that answers, seconds from its launch to the first `GET /health` with 200, and CPU seconds by then."""

    side: Side
    up_s: float
    up_cpu_s: float


Launch = Callable[[], AbstractAsyncContextManager[Launched]]


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in bytes. `shared_fairly` is PSS: of pages that several have, a part each; `own` is USS."""

    resident: int
    shared_fairly: int
    own: int


def daemon(directory: Path, engine_start: str) -> Launch:
    """`arena-server serve` with a configuration in `directory`, where what it keeps stays from launch to launch."""
    weights = directory / "model"
    config = {
        "server": {"port": 0},
        "state_dir": str(directory / "state"),
        "engine_start": engine_start,
        "models": {f"m{n}": {"model": str(weights), "gpu_memory_utilization": 0.1} for n in range(MODELS)},
    }
    file = directory / "config.yaml"  # JSON is YAML

    def command(port: int) -> tuple[str, ...]:
        file.write_text(json.dumps({**config, "server": {"port": port}}))
        return "-m", "arena_server", "serve", "--config", str(file)

    return partial(_launched, "arena-server", command, directory / "daemon.log")


def bare(directory: Path, pace: float = 100.0) -> Launch:
    """The bare application; `pace` in tokens per second of each stream."""

    def command(port: int) -> tuple[str, ...]:
        return "-m", "bench.bare_app", "--port", str(port), "--pace", str(pace)

    return partial(_launched, "bare FastAPI", command, directory / "bare.log")


@contextlib.asynccontextmanager
async def _launched(name: str, command: Callable[[int], tuple[str, ...]], log: Path) -> AsyncIterator[Launched]:
    port = free_port(0)
    argv = command(port)
    with log.open("wb") as output:
        began = time.perf_counter()
        async with running(*argv, stdout=output, stderr=output) as process:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
                await until_healthy(client, process, START_LIMIT_S, log)
                up_s = time.perf_counter() - began
                up_cpu_s = own_cpu_s(process.pid)
            yield Launched(Side(Target(name, port), psutil.Process(process.pid)), up_s, up_cpu_s)


def memory(side: Side) -> Memory:
    """What its process holds now, without its children."""
    info = side.process.memory_full_info()
    return Memory(info.rss, info.pss, info.uss)


async def settled(side: Side) -> psutil.Process | None:
    """Wait until the daemon has done what it does after its start, and its zygote too. Returns the zygote."""
    zygote, quiet, before = None, 0, 0.0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_LIMIT_S):
            while quiet < QUIET_LOOKS:
                zygote = next(iter(side.process.children()), None)
                used = side.cpu_s()
                quiet = quiet + 1 if used - before <= BUSY else 0
                before = used
                await asyncio.sleep(1)
            return zygote
    raise BenchError(f"{side.target.name} does not come to rest")
