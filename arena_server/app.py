"""The composition root: the only place where the parts are joined."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from arena_server import __version__
from arena_server.api import errors as api_errors
from arena_server.api.health import health_router
from arena_server.api.openai import openai_router
from arena_server.clock import Clock, SystemClock
from arena_server.config import Config
from arena_server.config_devices import check_devices
from arena_server.engine.base import Engine
from arena_server.engine.command import engine_command
from arena_server.engine.launcher import Launcher
from arena_server.engine.vllm import VllmEngine
from arena_server.errors import ArenaError, ConfigError
from arena_server.gpu.memory_return import MemoryReturn
from arena_server.gpu.probe import MemoryProbe, open_probe
from arena_server.log import set_up_logging
from arena_server.pool.core import PoolCore
from arena_server.pool.events import ModelSpec
from arena_server.pool.ledger import Budget
from arena_server.pool.pool import Pool
from arena_server.pool.state import Limits
from arena_server.run_dir import make_run_dir, remove_run_dir

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Daemon:
    """The joined parts."""

    pool: Pool
    app: FastAPI


class Server(uvicorn.Server):
    """Uvicorn, telling the pool first when it begins to shut down."""

    def __init__(self, config: uvicorn.Config, pool: Pool) -> None:
        super().__init__(config)
        self._pool = pool

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse who waits for a model, let running answers finish within the grace, then end (uvicorn)."""
        logger.info("Shutting down; running answers get %s s", self.config.timeout_graceful_shutdown)
        self._pool.refuse_new()
        await super().shutdown(sockets)


def serve(config: Config) -> int:
    """Run the daemon until a signal ends it. Returns the exit status; raises ConfigError before anything is started."""
    probe = open_probe()
    homes = check_devices(config, probe.devices)
    set_up_logging(config.log_level)
    listener = listen(config)
    run_dir = make_run_dir(config.run_dir)
    try:
        launcher = Launcher(config.engine_start, _engine_environment(config, gpu=probe.gpu))
        daemon = build(config, probe, homes, _engines(config, probe, homes, run_dir, launcher), launcher)
        _announce(config, probe, listener)
        # Uvicorn raises the signal that ended it once more at its end, for handlers that were there before its own:
        # the default ones would end the process before what is below.
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, lambda *_: None)
        server(config, daemon).run(sockets=[listener])
    finally:
        remove_run_dir(run_dir)
    logger.info("Stopped")
    return 0


def server(config: Config, daemon: Daemon) -> Server:
    """The HTTP server of a daemon."""
    settings = uvicorn.Config(
        daemon.app,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(config.server.shutdown_grace_s),
    )
    return Server(settings, daemon.pool)


def build(
    config: Config,
    probe: MemoryProbe,
    homes: Mapping[str, tuple[int, ...]],
    engines: Mapping[str, Engine],
    launcher: Launcher | None,
    clock: Clock | None = None,
) -> Daemon:
    """Join the parts; nothing runs before the application's lifespan begins.

    `engines` are the models' by name, `launcher` is what starts them, if anything has to.
    """
    clock = clock or SystemClock()
    pool = Pool(engines, _core(config, probe, homes), MemoryReturn(probe), clock)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            if launcher is not None:
                await launcher.warm_up()
            preloads = [asyncio.create_task(_preload(pool, n)) for n, m in config.models.items() if m.preload]
            yield
            for task in preloads:
                task.cancel()
        finally:
            await pool.close()
            if launcher is not None:
                await launcher.close()

    app = FastAPI(title="arena-server", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    api_errors.install(app)
    app.include_router(health_router(pool, probe, config.models, homes, clock))
    app.include_router(openai_router(pool, config.models, config.server.max_body_bytes))
    return Daemon(pool, app)


def _engines(
    config: Config, probe: MemoryProbe, homes: Mapping[str, tuple[int, ...]], run_dir: Path, launcher: Launcher
) -> dict[str, Engine]:
    return {
        name: VllmEngine(
            name,
            launcher,
            run_dir / str(number),
            partial(engine_command, name, model, homes[name], gpu=probe.gpu),
            config.pool.load_timeout_s,
        )
        for number, (name, model) in enumerate(config.models.items(), start=1)
    }


async def _preload(pool: Pool, name: str) -> None:
    try:
        async with pool.lease([name]):
            pass
    except ArenaError as e:
        logger.error("Preloading %s: %s", name, e)


def _core(config: Config, probe: MemoryProbe, homes: Mapping[str, tuple[int, ...]]) -> PoolCore:
    sizes = {device.index: device.total_bytes for device in probe.devices}
    specs = [
        ModelSpec(
            name,
            {device: int(sizes[device] * model.gpu_memory_utilization) for device in homes[name]},
            pinned=model.pinned,
            idle_ttl_s=model.idle_ttl_s,
        )
        for name, model in config.models.items()
    ]
    pool = config.pool
    # Rounded up, so that fractions which fill the budget exactly do not fail by a byte.
    budget = {index: int(size * (1 - pool.memory_reserve)) + len(specs) for index, size in sizes.items()}
    limits = Limits(pool.max_queue, pool.max_wait_s, pool.patience_s)
    return PoolCore(specs, Budget(budget, pool.max_awake_models), limits)


def _engine_environment(config: Config, *, gpu: bool) -> dict[str, str]:
    """What every engine finds in its environment, unless the daemon's own says otherwise."""
    defaults = {"TORCHINDUCTOR_CACHE_DIR": str(config.state_dir / "torchinductor")}
    if not gpu:
        # Engines that each take all cores fight over them: shared out, 16 streams of a tiny model on two cores went
        # from 250 to over 1,300 tokens/s. OpenMP reads it once, when it is loaded: in the zygote.
        together = min(config.pool.max_awake_models or len(config.models), len(config.models))
        defaults["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // together))
    return {name: value for name, value in defaults.items() if name not in os.environ}


def listen(config: Config) -> socket.socket:
    """The public port, bound before anything is started. Raises ConfigError."""
    host, port = config.server.host, config.server.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as e:
        # asyncio's and socket's own texts repeat the address.
        why = os.strerror(e.errno) if e.errno and e.errno > 0 else e.strerror
        raise ConfigError([f"{config.file}: server: cannot listen on {host}:{port}: {why}"]) from None


def _announce(config: Config, probe: MemoryProbe, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    devices = ", ".join(f"{d.name} {d.total_bytes / 2**30:.0f} GiB" for d in probe.devices)
    logger.info(
        "arena-server %s on http://%s:%d: %d models (%s) on %s",
        __version__,
        f"[{host}]" if ":" in host else host,
        port,
        len(config.models),
        ", ".join(config.models),
        devices,
    )
