"""The daemon with its zygote on cores of its own, and the paced stand-in that it takes for a server elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from arena_server.demo.daemon import ENGINE_ARGS, free_port, health
from arena_server.demo.models import make_demo_models
from bench.client import Target
from bench.completion import complete
from bench.daemon import daemon
from bench.own_cpu import own_cpu_s
from bench.processes import BenchError, running, until_healthy
from bench.stand_in import MODEL

START_LIMIT_S = 30.0
LOAD_LIMIT_S = 300.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Daemon:
    """The real one: a client for it, where its streams are to be had, its process, and what its engines come from."""

    client: aiohttp.ClientSession
    port: int
    process: psutil.Process
    zygote: psutil.Process
    free: str  # the demo model that streams
    loaded: str  # and the one that is loaded meanwhile

    def cpu_s(self) -> float:
        """CPU seconds that the daemon's own process has used so far."""
        return own_cpu_s(self.process.pid)

    def engines_on(self, cores: frozenset[int]) -> None:
        """Engines to come run on these cores, as the zygote does from now on."""
        pin(self.zygote, cores)

    async def load(self, model: str) -> float:
        """Ask a cold model for a token; returns the seconds until that came."""
        began = time.perf_counter()
        async with asyncio.timeout(LOAD_LIMIT_S):
            await complete(self.client, model)
        return time.perf_counter() - began

    async def stop(self, model: str) -> None:
        """Stop a model that is awake; returns when it is gone."""
        async with self.client.post(f"/admin/models/{model}/stop") as response:
            response.raise_for_status()
        async with asyncio.timeout(LOAD_LIMIT_S):
            while True:
                if (await health(self.client))["models"][model]["residency"] == "cold":
                    return
                await asyncio.sleep(POLL_S)


def pin(process: psutil.Process, cores: frozenset[int]) -> None:
    """Have all threads of the process, and what it starts from now on, run on these cores."""
    for thread in process.threads():
        os.sched_setaffinity(thread.id, cores)


@contextlib.asynccontextmanager
async def paced_engine(pace: float) -> AsyncIterator[Target]:
    """The stand-in on a TCP port, up."""
    port = free_port(0)
    async with running("-m", "bench.stand_in", "--port", str(port), "--pace", str(pace)) as process:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            await until_healthy(client, process, START_LIMIT_S)
        yield Target("direct", port)


@contextlib.asynccontextmanager
async def loading_daemon(directory: Path, paced: Target) -> AsyncIterator[Daemon]:
    """The daemon over two demo models and the stand-in, which it takes for a server elsewhere."""
    models = await asyncio.to_thread(make_demo_models, directory / "models", report=lambda _: None)
    local = {"gpu_memory_utilization": 0.05, "engine_args": dict(ENGINE_ARGS)}
    parts: dict[str, dict[str, Any]] = {
        MODEL: {"model": MODEL, "backend_url": f"http://127.0.0.1:{paced.address}/v1"},
        **{model.name: {"model": str(model.path), **local} for model in models[:2]},
    }
    async with daemon(directory, parts) as served:
        yield Daemon(served.client, served.port, served.process, find_zygote(), models[0].name, models[1].name)


def find_zygote() -> psutil.Process:
    """The one process below this one that forks engines."""
    found = [p for p in psutil.Process().children(recursive=True) if "zygote" in " ".join(p.cmdline())]
    if len(found) != 1:
        raise BenchError(f"there should be one zygote; found are {found}")
    return found[0]
