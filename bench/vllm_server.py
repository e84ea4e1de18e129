"""vLLM's own API server with an engine's command line, as it is started without arena-server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import aiohttp

from arena_server.demo.daemon import free_port
from arena_server.engine.command import EngineCommand
from bench.processes import running, until_healthy

MODULE = "vllm.entrypoints.openai.api_server"
# For it and for the engines it is compared with, where both run on the CPU: threads bound to the same cores, or too
# many of them, would slow either.
CPU_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextlib.asynccontextmanager
async def launched(command: EngineCommand, output: IO[bytes] | int) -> AsyncIterator[asyncio.subprocess.Process]:
    """It on the command's socket, launched and not yet up; all that it says goes to `output`."""
    async with running("-m", MODULE, *command.argv, env=command.env, stdout=output, stderr=output) as process:
        yield process


@dataclass(frozen=True, slots=True)
class TcpServer:
    """It on a TCP port of this machine."""

    process: asyncio.subprocess.Process
    port: int
    log: Path

    async def until_up(self, limit_s: float) -> None:
        """Wait until it answers. Raises BenchError."""
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.port}") as client:
            await until_healthy(client, self.process, limit_s, self.log)


@contextlib.asynccontextmanager
async def launched_on_tcp(command: EngineCommand, log: Path) -> AsyncIterator[TcpServer]:
    """It on any free port instead of the command's socket, launched and not yet up."""
    port = free_port(0)
    with log.open("wb") as output:
        async with launched(replace(command, argv=on_port(command.argv, port)), output) as process:
            yield TcpServer(process, port, log)


def on_port(argv: tuple[str, ...], port: int) -> tuple[str, ...]:
    """An engine's arguments, with a port in place of the socket."""
    return (*(arg for arg in argv if not arg.startswith("--uds=")), "--host=127.0.0.1", f"--port={port}")
