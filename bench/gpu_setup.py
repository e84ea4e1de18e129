"""What is run on a GPU, or in its stead on the CPU to try the programs themselves: models and engines.

On the CPU every step is the same and asks the same of vLLM; only no memory is freed or measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from arena_server.config_model import ModelConfig
from arena_server.demo.models import make_demo_models
from arena_server.engine.command import engine_command
from arena_server.engine.launcher import Launcher
from arena_server.engine.vllm import VllmEngine
from arena_server.gpu.device_memory import DeviceMemory
from arena_server.gpu.probe import MemoryProbe, open_probe
from bench.completion import ONE_TOKEN, complete
from bench.processes import BenchError, until_healthy
from bench.vllm_server import CPU_ENVIRONMENT, launched

START_LIMIT_S = 600.0
REQUEST_LIMIT_S = 600.0
NAMES = ("one", "two")
CONTEXT = 2048

# Unless the environment says otherwise. Flashinfer, where it is missing, ends the engine unless it is not sampled with.
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_HOST_IP": "127.0.0.1"}
GPU_ENVIRONMENT = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}

GPU_ARGS = {"dtype": "bfloat16", "max_model_len": CONTEXT, "attention_backend": "FLASH_ATTN"}
CPU_ARGS = {
    "dtype": "float32", "max_model_len": CONTEXT, "enforce_eager": True, "kv_cache_memory_bytes": 64 << 20,
}  # fmt: skip

ROOT = Path(__file__).parents[1]
# Writes random models of true-to-life sizes; beside this checkout, in it, or carried to the GPU machine.
MODEL_MAKERS = (
    ROOT.parent / "shared/gpu/make_model.py",
    ROOT / "shared/gpu/make_model.py",
    ROOT / ".gpu/kit/make_model.py",
)
DEMO = "demo"
GIB = 1 << 30
# Two models of 8b: half of the device for each, both asleep in RAM (twice their weights), both on the disk.
ROOM_8B = {"device": 48 * GIB, "ram": 96 * GIB, "disk": 34 * GIB}
GREEDY = {"prompt": "the quick brown fox", "max_tokens": 24, "temperature": 0, "ignore_eos": True}


def why_no_gpu() -> str | None:
    """Why nothing can be run on a GPU here; None if it can."""
    return None if open_probe().gpu else "no NVIDIA GPU: NVML finds none (no driver, or no visible device)"


def set_environment(*, gpu: bool) -> None:
    """What vLLM finds in its environment, in this process and all that it starts."""
    for name, value in {**ENVIRONMENT, **(GPU_ENVIRONMENT if gpu else CPU_ENVIRONMENT)}.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True, slots=True)
class Setup:
    """Two models on one device; `alone` is the fraction of it that lets one of them be awake, and not both."""

    probe: MemoryProbe
    models: Mapping[str, Path]
    size: str

    @property
    def gpu(self) -> bool:
        """Whether it is the real thing."""
        return self.probe.gpu

    @property
    def device(self) -> int:
        """The one that is used."""
        return self.probe.devices[0].index

    @property
    def alone(self) -> float:
        """Of 0.95 of a GPU. On the CPU sleeping frees nothing, so both must fit, and `max_awake_models` rules."""
        return 0.5 if self.gpu else 0.05

    def model_config(self, name: str, **more: Any) -> dict[str, Any]:
        """A model's part of a daemon's configuration."""
        args = dict(GPU_ARGS if self.gpu else CPU_ARGS)
        return {"model": str(self.models[name]), "gpu_memory_utilization": self.alone, "engine_args": args, **more}

    def pool_config(self) -> dict[str, Any]:
        """Room for one."""
        return {} if self.gpu else {"max_awake_models": 1}


def make_setup(directory: Path, size: str | None = None) -> Setup:
    """The machine, with two models written to `directory` (if they are not there yet). Raises BenchError.

    `size` is one of make_model.py's, by default 8b, or 1b where two of these have no room (tiny on the CPU); or `demo`
    for arena-server's demo models, which are also taken where there is no make_model.py.
    """
    probe = open_probe()
    maker = next((path for path in MODEL_MAKERS if path.exists()), None)
    if maker is None and size not in (None, DEMO):
        raise BenchError(f"no make_model.py for a model of size {size}; looked for {', '.join(map(str, MODEL_MAKERS))}")
    size = (size or default_size(probe, directory)) if maker is not None else DEMO
    if maker is None or size == DEMO:
        demo = make_demo_models(directory, report=lambda _: None)
        return Setup(probe, {name: model.path for name, model in zip(NAMES, demo, strict=False)}, DEMO)
    models = {name: directory / f"{name}-{size}" for name in NAMES}
    for seed, path in enumerate(models.values()):
        argv = [str(maker), str(path), "--size", size, "--arch", "llama", "--seed", str(seed)]
        made = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=False)
        if made.returncode:
            raise BenchError(f"{maker} failed: {made.stderr[-2000:]}")
    return Setup(probe, models, size)


def default_size(probe: MemoryProbe, directory: Path) -> str:
    """The largest of the usual sizes that two models may have here; those in `directory` already need no more disk."""
    if not probe.gpu:
        return "tiny"
    directory.mkdir(parents=True, exist_ok=True)
    written = any((directory / f"{name}-8b").exists() for name in NAMES)
    room = {
        "device": probe.devices[0].total_bytes,
        "ram": psutil.virtual_memory().total,
        "disk": ROOM_8B["disk"] if written else shutil.disk_usage(directory).free,
    }
    return "8b" if all(room[what] >= needed for what, needed in ROOM_8B.items()) else "1b"


class Subject:
    """One model's engine, as the pool handles it: with its memory noted before and after each transition."""

    def __init__(self, setup: Setup, name: str, launcher: Launcher, directory: Path) -> None:
        """Sockets and logs go to `directory`, whose path must be short."""
        self.name = name
        self._setup = setup
        self._directory = directory
        self._socket = directory / name / "http.sock"
        config = ModelConfig.model_validate(setup.model_config(name, sleep_level=1))
        self._command = partial(engine_command, name, config, (setup.device,), gpu=setup.gpu)
        self.engine = VllmEngine(name, launcher, directory / name, self._command, START_LIMIT_S)
        self.memory = DeviceMemory(setup.probe)

    async def load(self) -> float:
        """Returns the seconds it took, as all of these."""
        devices = (self._setup.device,)
        self.memory.settle(devices)
        began = time.perf_counter()
        async with self.memory.load_peak(self.name, devices):
            await self.engine.load()
        took_s = time.perf_counter() - began
        self.memory.note_awake(self.name, devices, self.engine.pids)
        return took_s

    async def sleep(self, level: int) -> float:
        """Fall asleep. (The first time it answers the canary before.)"""
        devices = (self._setup.device,)
        self.memory.settle(devices)
        began = time.perf_counter()
        await self.engine.sleep(level)
        took_s = time.perf_counter() - began
        self.memory.note_asleep(self.name, devices, self.engine.pids)
        return took_s

    async def wake(self) -> float:
        """Wake, the canary's answer included."""
        devices = (self._setup.device,)
        self.memory.settle(devices)
        began = time.perf_counter()
        await self.engine.wake()
        took_s = time.perf_counter() - began
        self.memory.note_awake(self.name, devices, self.engine.pids)
        return took_s

    async def stop(self) -> bool:
        """Whether its memory came back."""
        await self.engine.stop()
        return await self.memory.returned(self.name, (self._setup.device,))

    async def first_token(self) -> float:
        """Seconds that a request for one token takes."""
        began = time.perf_counter()
        await self._complete(ONE_TOKEN)
        return time.perf_counter() - began

    async def greedy(self) -> str:
        """An answer that must always be the same."""
        answer = await self._complete(GREEDY)
        return str(answer["choices"][0]["text"])

    @property
    def listed_bytes(self) -> int | None:
        """What NVML says that the engine's processes have on the device; None where it does not list them."""
        uses = self._setup.probe.processes(self._setup.device)
        if uses is None:
            return None
        return sum(uses.get(pid, 0) for pid in self.engine.pids) or None

    def bytes_of(self, kind: str) -> int | None:
        """`load_peak_bytes`, `awake_bytes` or `asleep_bytes`, as last measured; None on the CPU."""
        readings: Mapping[int, int] = getattr(self.memory.readings(self.name), kind)
        return readings.get(self._setup.device)

    async def vllms_own_start(self) -> float:
        """Seconds from the launch of vLLM's own server, with the same arguments, until it is healthy."""
        directory = Path(tempfile.mkdtemp(prefix="v-", dir=self._directory))
        command = self._command(directory)
        log = directory / "log"
        with log.open("wb") as output:
            began = time.perf_counter()
            async with launched(command, output) as process, _client(directory / "http.sock") as client:
                await until_healthy(client, process, START_LIMIT_S, log)
                return time.perf_counter() - began

    async def _complete(self, body: Mapping[str, Any]) -> Any:
        async with _client(self._socket) as client:
            return await complete(client, self.name, body)


def _client(socket: Path) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=REQUEST_LIMIT_S)
    return aiohttp.ClientSession("http://engine", connector=aiohttp.UnixConnector(str(socket)), timeout=timeout)
