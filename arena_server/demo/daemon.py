"""The demo's daemon: a configuration for the demo models, and a process that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from arena_server.demo.models import DemoModel
from arena_server.errors import ArenaError

START_LIMIT_S = 30.0
# Small enough for three engines on a laptop; eager, because compiling would take longer than all the rest.
ENGINE_ARGS = {"dtype": "float32", "max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 64 << 20}


def write_config(directory: Path, models: Sequence[DemoModel], port: int) -> Path:
    """Write `arena.yaml`, with room for two of the models, into the directory; returns its path."""
    config = {
        "server": {"host": "127.0.0.1", "port": port},
        "pool": {"max_awake_models": 2},
        "state_dir": str(directory / "state"),
        "models": {
            m.name: {"model": str(m.path), "gpu_memory_utilization": 0.05, "engine_args": dict(ENGINE_ARGS)}
            for m in models
        },
    }
    path = directory / "arena.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def free_port(preferred: int) -> int:
    """The preferred port if nobody has it, else any free one."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as listener:
            return int(listener.getsockname()[1])
    raise ArenaError("no free port on 127.0.0.1")


@contextlib.asynccontextmanager
async def running_daemon(config: Path, log: Path, base_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Run `arena-server serve`, its output in `log`; yields a client for it. Ends the daemon at the end."""
    environment = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", **os.environ}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "arena_server", "serve", "--config", str(config)),
            stdout=output,
            stderr=output,
            env=environment,
            # Ctrl-C is for the demo, which then ends the daemon in order. Not in a session of its own: Linux shares the
            # cores out between sessions (sched(7), autogroup), and while two processes of vLLM waited for each other
            # in one (sched_yield), Linux 6.18 kept who listened in another from its core for up to 2.5 s.
            preexec_fn=os.setpgrp,  # `process_group` is unknown to uvloop, which the benchmarks run on
        )
    try:
        async with aiohttp.ClientSession(base_url, timeout=aiohttp.ClientTimeout(total=None)) as client:
            await _until_healthy(client, process, log)
            yield client
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def _until_healthy(client: aiohttp.ClientSession, process: asyncio.subprocess.Process, log: Path) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_LIMIT_S):
            while process.returncode is None:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    await health(client)
                    return
                await asyncio.sleep(0.05)
    tail = await asyncio.to_thread(log.read_text)
    raise ArenaError(f"the daemon did not start; the end of {log}:\n{tail[-2000:]}")


async def health(client: aiohttp.ClientSession) -> dict[str, Any]:
    """`GET /health`."""
    async with client.get("/health") as response:
        body: dict[str, Any] = await response.json()
        return body
