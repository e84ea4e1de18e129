"""The composition root: the only place where the parts are joined."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from arena_server import __version__
from arena_server.api import errors as api_errors
from arena_server.api.admin import admin_router
from arena_server.api.arena import arena_router
from arena_server.api.health import health_router
from arena_server.api.names import Catalogue
from arena_server.api.openai import openai_router
from arena_server.api.page import page_router
from arena_server.arena.battles import Battles
from arena_server.arena.leaderboard import Leaderboard
from arena_server.blueprint import Blueprint, draw_blueprint
from arena_server.clock import Clock, SystemClock
from arena_server.config import Config
from arena_server.config_devices import check_devices
from arena_server.engine.base import Engine
from arena_server.engine.command import engine_command
from arena_server.engine.launcher import Launcher
from arena_server.engine.vllm import VllmEngine
from arena_server.errors import ArenaError, ConfigError
from arena_server.gpu.device_memory import DeviceMemory
from arena_server.gpu.probe import MemoryProbe, open_probe
from arena_server.log import set_up_logging
from arena_server.measurements import MeasurementStore, installed_vllm_version
from arena_server.pool.core import PoolCore
from arena_server.pool.pool import Pool
from arena_server.pool.records import Records
from arena_server.reload import Reloader
from arena_server.run_dir import make_run_dir, remove_run_dir
from arena_server.store.store import Store
from arena_server.store.url import store_url

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Daemon:
    """The joined parts."""

    pool: Pool
    battles: Battles
    app: FastAPI
    reloader: Reloader


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
    check_devices(config, probe.devices)
    set_up_logging(config.log_level)
    listener = listen(config)
    run_dir = make_run_dir(config.run_dir)
    try:
        store = MeasurementStore.open(config.state_dir / "measurements.sqlite")
        launcher = Launcher(config.engine_start, _engine_environment(config, gpu=probe.gpu))
        votes = Store(store_url(config.arena.database, config.state_dir))
        daemon = build(config, probe, store, votes, _engine_maker(probe, run_dir, launcher), launcher)
        _announce(config, probe, listener)
        # Uvicorn raises the signal that ended it once more at its end, for handlers that were there before its own:
        # the default ones would end the process before what is below.
        # (SIGHUP: one that comes before the lifespan has set its own would end the process, too.)
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
        # Uvicorn's 5 s are just what OpenAI's client (httpx) keeps an idle connection for, and less than nginx's 60:
        # a request sent as the connection closes fails, though the daemon is well.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(config.server.shutdown_grace_s),
    )
    return Server(settings, daemon.pool)


def build(
    config: Config,
    probe: MemoryProbe,
    store: MeasurementStore,
    votes: Store,
    make_engine: Callable[[str, Blueprint], Engine],
    launcher: Launcher | None,
    clock: Clock | None = None,
) -> Daemon:
    """Join the parts; nothing runs before the application's lifespan begins. Raises ConfigError.

    `votes` keeps battles. `make_engine` makes a model's engine, `launcher` is what starts them, if anything has to.
    """
    clock = clock or SystemClock()
    vllm_version = installed_vllm_version()

    def draw(config: Config, old: Blueprint | None) -> Blueprint:
        return draw_blueprint(config, probe, store, vllm_version, old.homes if old else None)

    blueprint = draw(config, None)
    engines = {name: make_engine(name, blueprint) for name in config.models}
    core = PoolCore(blueprint.specs, blueprint.budget, blueprint.limits)
    records = Records(store, blueprint.keys)
    pool = Pool(engines, core, DeviceMemory(probe), records, clock, reserve_bytes=blueprint.reserve_bytes)
    catalogue = Catalogue(config.models, blueprint.homes)
    reloader = Reloader(pool, catalogue, blueprint, draw, make_engine)
    battles = Battles(pool, catalogue, votes, clock, config.arena)
    leaderboard = Leaderboard(votes, clock, lambda: battles.drawable)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        background: list[asyncio.Task[None]] = []
        try:
            if launcher is not None:
                await launcher.warm_up()
                _on_sighup(reloader)
                background.append(asyncio.create_task(_open(votes)))
            pool.look_at_devices()  # before anything is loaded beside what others hold
            if probe.gpu:
                background.append(asyncio.create_task(pool.watch_devices()))
            for name in (n for n, m in config.models.items() if m.preload):
                _preload(pool, name)
            yield
        finally:
            for task in background:
                task.cancel()
            await pool.close()
            await battles.close()
            await leaderboard.close()
            await votes.close()
            if launcher is not None:
                await launcher.close()

    app = FastAPI(title="arena-server", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    api_errors.install(app)
    app.include_router(health_router(pool, probe, catalogue, clock))
    app.include_router(openai_router(pool, catalogue, config.server.max_body_bytes, config.pool.wait_notice_s))
    app.include_router(admin_router(pool, probe, catalogue, clock, reloader.reload))
    app.include_router(page_router())
    app.include_router(arena_router(pool, catalogue, battles, leaderboard.get, clock, config))
    return Daemon(pool, battles, app, reloader)


async def _open(votes: Store) -> None:
    """At the start, so that what is wrong with the database is said then, and not at the first vote."""
    try:
        await votes.open()
    except ArenaError as e:
        logger.error("Votes cannot be kept: %s", e)


def _preload(pool: Pool, name: str) -> None:
    try:
        pool.load(name)
    except ArenaError as e:  # a queue of one place, say: no reason not to serve
        logger.error("Preloading %s: %s", name, e)


def _on_sighup(reloader: Reloader) -> None:
    """Let SIGHUP (`systemctl reload`) read the configuration again."""
    running: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        try:
            await reloader.reload()
        except ArenaError as e:
            logger.error("The configuration stays as it was: %s", e)

    def hang_up() -> None:
        task = asyncio.get_running_loop().create_task(reload())
        running.add(task)
        task.add_done_callback(running.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)


def _engine_maker(probe: MemoryProbe, run_dir: Path, launcher: Launcher) -> Callable[[str, Blueprint], Engine]:
    numbers = itertools.count(1)

    def make(name: str, blueprint: Blueprint) -> Engine:
        pool, model = blueprint.config.pool, blueprint.config.models[name]
        return VllmEngine(
            name,
            launcher,
            # A number for each: the engine that this one replaces may still be there.
            run_dir / str(next(numbers)),
            partial(engine_command, name, model, blueprint.homes[name], gpu=probe.gpu),
            pool.load_timeout_s,
            load_stall_s=pool.load_stall_s,
            sleep_timeout_s=pool.sleep_timeout_s,
            progress_stall_s=pool.progress_stall_s,
        )

    return make


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
