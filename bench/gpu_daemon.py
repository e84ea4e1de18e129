"""The daemon over the models of bench/gpu_setup.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

from arena_server.demo.daemon import free_port, running_daemon
from arena_server.errors import ArenaError
from bench.gpu_setup import NAMES, Setup
from bench.processes import BenchError


@dataclass(frozen=True, slots=True)
class Served:
    """A daemon that runs: a client for it, its port, and where its engines' sockets are."""

    client: aiohttp.ClientSession
    port: int
    run_dir: Path

    @property
    def process(self) -> psutil.Process:
        """The daemon's own: the directory in `run_dir` has its id as name."""
        (directory,) = self.run_dir.iterdir()
        return psutil.Process(int(directory.name))


@contextlib.asynccontextmanager
async def daemon(
    directory: Path, name: str, models: Mapping[str, Mapping[str, Any]], pool: Mapping[str, Any]
) -> AsyncIterator[Served]:
    """The daemon over these models, up; what it keeps is called after `name`."""
    port = free_port(0)
    config, log = directory / f"arena-{name}.yaml", directory / f"daemon-{name}.log"
    content = {
        "server": {"port": port},
        "pool": dict(pool),
        "state_dir": str(directory / f"state-{name}"),
        "run_dir": str(directory / "run"),
        "models": {model: dict(part) for model, part in models.items()},
    }
    await asyncio.to_thread(config.write_text, yaml.safe_dump(content, sort_keys=False))
    try:
        async with running_daemon(config, log, f"http://127.0.0.1:{port}") as client:
            yield Served(client, port, directory / "run")
    except ArenaError as e:
        raise BenchError(str(e)) from e


@contextlib.asynccontextmanager
async def swapping_daemon(setup: Setup, directory: Path, level: int) -> AsyncIterator[aiohttp.ClientSession]:
    """A client for a daemon over both models, with room for one, that sleep at `level` when they have to leave."""
    models = {name: setup.model_config(name, sleep_level=level) for name in NAMES}
    async with daemon(directory, str(level), models, {**setup.pool_config(), "patience_s": 0}) as served:
        yield served.client
