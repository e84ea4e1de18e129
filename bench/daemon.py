"""The daemon as a user starts it, over a benchmark's models."""

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
from bench.processes import BenchError

Models = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Served:
    """A daemon that runs: its configuration, a client for it, its port, and where its engines' sockets are."""

    config: Path
    client: aiohttp.ClientSession
    port: int
    run_dir: Path

    @property
    def process(self) -> psutil.Process:
        """The daemon's own: the directory in `run_dir` has its id as name."""
        (directory,) = self.run_dir.iterdir()
        return psutil.Process(int(directory.name))

    @property
    def engine_socket(self) -> Path:
        """That of the one engine that is up."""
        (socket,) = self.run_dir.glob("*/*/http.sock")
        return socket


@contextlib.asynccontextmanager
async def daemon(
    directory: Path, models: Models, pool: Mapping[str, Any] | None = None, *, name: str = "arena"
) -> AsyncIterator[Served]:
    """The daemon over these models, up; what it keeps in `directory` is called after `name`. Raises BenchError."""
    port = free_port(0)
    config, log = directory / f"{name}.yaml", directory / f"{name}.log"
    content = {
        "server": {"port": port},
        "pool": dict(pool or {}),
        "state_dir": str(directory / f"{name}-state"),
        "run_dir": str(directory / "run"),  # short, for sockets are in it
        "models": {model: dict(part) for model, part in models.items()},
    }
    await asyncio.to_thread(config.write_text, yaml.safe_dump(content, sort_keys=False))
    try:
        async with running_daemon(config, log, f"http://127.0.0.1:{port}") as client:
            yield Served(config, client, port, directory / "run")
    except ArenaError as e:
        raise BenchError(str(e)) from e
