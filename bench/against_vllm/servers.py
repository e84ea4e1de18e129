"""Three ways to one model: its engine's own socket, the daemon in front of that engine, and vLLM's own server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import aiohttp
import psutil
import yaml

from arena_server.config_model import ModelConfig
from arena_server.demo.daemon import free_port, running_daemon
from arena_server.demo.models import DemoModel, make_demo_models
from arena_server.engine.command import engine_command
from arena_server.engine.launcher import ZYGOTE_ENVIRONMENT
from arena_server.errors import ArenaError
from arena_server.gpu.probe import open_probe
from bench.processes import BenchError, running, until_healthy
from bench.sides import tree_cpu_s

START_LIMIT_S = 300.0
IDLE_S = 3.0
VLLM_SERVER = "vllm.entrypoints.openai.api_server"
SOCKET, ARENA, VLLM = "socket", "arena", "vllm"
WAYS = (SOCKET, ARENA, VLLM)
# Without the prefix cache: whoever asks an engine second would find it filled by the first with the same prompts.
ENGINE_ARGS: dict[str, str | int | bool] = {
    "dtype": "float32", "max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 64 << 20,
    "enable_prefix_caching": False,
}  # fmt: skip
# For both engines. What the daemon's zygote has anyway, vLLM's own server has, too.
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1", **ZYGOTE_ENVIRONMENT,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Servers:
    """All up: each way's address is the path of a socket or a port of this machine."""

    model: DemoModel
    addresses: Mapping[str, str | int]
    daemon: psutil.Process
    vllm: psutil.Process

    async def idle_cores(self) -> dict[str, float]:
        """How many cores the daemon together with its engine uses while nobody asks, and how many vLLM's server."""
        roots = {ARENA: self.daemon, VLLM: self.vllm}
        before = {way: tree_cpu_s(root) for way, root in roots.items()}
        await asyncio.sleep(IDLE_S)
        return {way: (tree_cpu_s(root) - before[way]) / IDLE_S for way, root in roots.items()}


@contextlib.asynccontextmanager
async def servers(directory: Path) -> AsyncIterator[Servers]:
    """The daemon with its engine, and vLLM's own server, with the same model; they start at once, and end at the end.

    Sets the environment. Raises BenchError.
    """
    os.environ.update(ENVIRONMENT)
    model = make_demo_models(directory / "models", report=lambda _: None)[0]
    config = ModelConfig(model=str(model.path), gpu_memory_utilization=0.05, engine_args={**ENGINE_ARGS})
    arena_port = free_port(0)
    log = directory / "vllm.log"
    with log.open("wb") as output:
        async with (
            _vllm_server(directory, model.name, config, output) as (process, vllm_port),
            _daemon(directory, model.name, config, arena_port) as socket,
        ):
            async with aiohttp.ClientSession(f"http://127.0.0.1:{vllm_port}") as client:
                await until_healthy(client, process, START_LIMIT_S, log)
            daemon = psutil.Process(int(socket.parents[1].name))  # run directories have their daemon's pid as name
            addresses: dict[str, str | int] = {SOCKET: str(socket), ARENA: arena_port, VLLM: vllm_port}
            yield Servers(model, addresses, daemon, psutil.Process(process.pid))


@contextlib.asynccontextmanager
async def _vllm_server(
    directory: Path, name: str, config: ModelConfig, output: IO[bytes]
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """vLLM's own server with the engine's command line, but on a TCP port; started, not up."""
    own = directory / "v"
    own.mkdir()
    command = engine_command(name, config, (0,), own, gpu=open_probe().gpu)
    port = free_port(0)
    argv = (*(arg for arg in command.argv if not arg.startswith("--uds=")), "--host=127.0.0.1", f"--port={port}")
    async with running("-m", VLLM_SERVER, *argv, env=command.env, stdout=output, stderr=output) as process:
        yield process, port


@contextlib.asynccontextmanager
async def _daemon(directory: Path, name: str, config: ModelConfig, port: int) -> AsyncIterator[Path]:
    """The daemon on that port with its engine awake; yields the engine's socket."""
    content = {
        "server": {"port": port},
        "state_dir": str(directory / "state"),
        "run_dir": str(directory / "run"),
        "models": {name: config.model_dump(include={"model", "gpu_memory_utilization", "engine_args"})},
    }
    path = directory / "arena.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    try:
        async with running_daemon(path, directory / "daemon.log", f"http://127.0.0.1:{port}") as client:
            body = {"model": name, "prompt": "The sea", "max_tokens": 1}
            async with client.post("/v1/completions", json=body) as response:
                if response.status != 200:
                    raise BenchError(f"the daemon answered {response.status}: {await response.text()}")
            (socket,) = (directory / "run").glob("*/*/http.sock")
            yield socket
    except ArenaError as e:
        raise BenchError(str(e)) from e
