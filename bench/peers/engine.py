"""The stand-in engine that all front doors lead to: on a Unix socket, and on TCP for those that speak nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from bench.client import Target
from bench.peers.ports import free_ports
from bench.processes import running, until_healthy
from bench.sides import START_LIMIT_S, Side

DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine, up."""

    side: Side  # on its Unix socket
    port: int
    pace: float  # tokens per second of each stream

    @property
    def socket(self) -> str:
        """Path of its Unix socket."""
        return str(self.side.target.address)


@contextlib.asynccontextmanager
async def stand_in(directory: Path, pace: float) -> AsyncIterator[Engine]:
    """The stand-in engine, up; its socket is in `directory`."""
    path = str(directory / "engine.sock")
    [port] = free_ports(1)
    command = ("-m", "bench.stand_in", "--uds", path, "--port", str(port), "--pace", str(pace))
    async with running(*command) as process:
        for connector, base in ((aiohttp.UnixConnector(path), "http://engine"), (None, f"http://127.0.0.1:{port}")):
            async with aiohttp.ClientSession(base, connector=connector) as client:
                await until_healthy(client, process, START_LIMIT_S)
        yield Engine(Side(Target(DIRECT, path), psutil.Process(process.pid)), port, pace)
