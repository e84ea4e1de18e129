"""What a benchmark compares: servers in processes of their own, each with where to ask it and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from bench.client import Target
from bench.processes import BenchError, running, until_healthy

START_LIMIT_S = 30.0
REST_LOOK_S = 0.5
REST_SHARE = 0.05  # of a core


@dataclass(frozen=True, slots=True)
class Side:
    """A server that answers at `target`, and its process."""

    target: Target
    process: psutil.Process

    def cpu_s(self) -> float:
        """CPU seconds that the process and its children have used so far."""
        return tree_cpu_s(self.process)

    def resident_bytes(self) -> int:
        """What the process holds in RAM, without its children."""
        return int(self.process.memory_info().rss)


def tree_cpu_s(root: psutil.Process) -> float:
    """CPU seconds that a process and its children, as far as they live, have used so far."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return float(total)


@contextlib.asynccontextmanager
async def stand_in(directory: Path, *, pace: float = 100.0, first_token_ms: float = 0.0) -> AsyncIterator[Side]:
    """The stand-in engine on a socket in `directory`, up; `pace` in tokens per second of each stream."""
    socket = str(directory / "engine.sock")
    options = ("--pace", str(pace), "--first-token-ms", str(first_token_ms))
    async with running("-m", "bench.stand_in", "--uds", socket, *options) as process:
        async with aiohttp.ClientSession("http://x", connector=aiohttp.UnixConnector(socket)) as client:
            await until_healthy(client, process, START_LIMIT_S)
        yield Side(Target("direct", socket), psutil.Process(process.pid))


@contextlib.asynccontextmanager
async def arena(engine: Side, *options: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Side]:
    """The daemon in front of `engine`, up, on a TCP port; `options` are those of bench/relay_app.py."""
    command = ("-m", "bench.relay_app", "--engine", str(engine.target.address), *options)
    async with _port_teller("arena-server", *command, env=env) as side:
        yield side


@contextlib.asynccontextmanager
async def bare_relay(engine: Side) -> AsyncIterator[Side]:
    """The least that a relay on ASGI does (bench/bare_relay.py), up, on a TCP port."""
    async with _port_teller("bare relay", "-m", "bench.bare_relay", "--engine", str(engine.target.address)) as side:
        yield side


@contextlib.asynccontextmanager
async def _port_teller(name: str, *command: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Side]:
    """A server whose first line on standard output is its port, at rest."""
    async with running(*command, env=env, stdout=asyncio.subprocess.PIPE) as process:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_LIMIT_S)
        if not line.strip().isdigit():
            raise BenchError(f"{name} did not start")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{int(line)}") as client:
            await until_healthy(client, process, START_LIMIT_S)
        side = Side(Target(name, int(line)), psutil.Process(process.pid))
        await _at_rest(side)
        yield side


async def _at_rest(side: Side) -> None:
    """Wait until it has done what it does after its start, beside answering: it opens its database, for a second."""
    for _ in range(round(START_LIMIT_S / REST_LOOK_S)):
        before = side.cpu_s()
        await asyncio.sleep(REST_LOOK_S)
        if side.cpu_s() - before < REST_LOOK_S * REST_SHARE:
            return
    raise BenchError(f"{side.target.name} does not come to rest")
