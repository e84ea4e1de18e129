"""Three ways to one model: its engine's own socket, the daemon in front of that engine, and vLLM's own server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from arena_server.config_model import ModelConfig
from arena_server.demo.models import DemoModel, make_demo_models
from arena_server.engine.command import engine_command
from arena_server.engine.launcher import ZYGOTE_ENVIRONMENT
from arena_server.gpu.probe import open_probe
from bench.completion import complete
from bench.daemon import daemon
from bench.sides import tree_cpu_s
from bench.vllm_server import CPU_ENVIRONMENT, launched_on_tcp

START_LIMIT_S = 300.0
IDLE_S = 3.0
SOCKET, ARENA, VLLM = "socket", "arena", "vllm"
WAYS = (SOCKET, ARENA, VLLM)
# Without the prefix cache: whoever asks an engine second would find it filled by the first with the same prompts.
ENGINE_ARGS: dict[str, str | int | bool] = {
    "dtype": "float32", "max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 64 << 20,
    "enable_prefix_caching": False,
}  # fmt: skip
# For both engines. What the daemon's zygote has anyway, vLLM's own server has, too.
ENVIRONMENT = {**CPU_ENVIRONMENT, "VLLM_HOST_IP": "127.0.0.1", **ZYGOTE_ENVIRONMENT}


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
    part = {"model": str(model.path), "gpu_memory_utilization": 0.05, "engine_args": dict(ENGINE_ARGS)}
    own = directory / "v"
    own.mkdir()
    command = engine_command(model.name, ModelConfig.model_validate(part), (0,), own, gpu=open_probe().gpu)
    async with (
        launched_on_tcp(command, directory / "vllm.log") as vllm,
        daemon(directory, {model.name: part}) as served,
    ):
        await complete(served.client, model.name)
        await vllm.until_up(START_LIMIT_S)
        addresses: dict[str, str | int] = {
            SOCKET: str(served.engine_socket), ARENA: served.port, VLLM: vllm.port,
        }  # fmt: skip
        yield Servers(model, addresses, served.process, psutil.Process(vllm.process.pid))
