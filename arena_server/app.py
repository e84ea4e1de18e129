"""The composition root: the only place where the parts are joined."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from arena_server import __version__
from arena_server.api import errors as api_errors
from arena_server.api.admin import Reloaded, admin_router
from arena_server.api.arena import arena_router
from arena_server.api.health import health_router
from arena_server.api.metrics import metrics_router
from arena_server.api.names import Catalogue
from arena_server.api.openai import openai_router
from arena_server.api.page import page_router
from arena_server.api.request_id import Application
from arena_server.arena.battles import Battles
from arena_server.arena.leaderboard import Leaderboard
from arena_server.blueprint import Blueprint, draw_blueprint
from arena_server.clock import Clock, SystemClock
from arena_server.config import Config
from arena_server.course import Courses, Listener
from arena_server.engine.base import Engine
from arena_server.engine.launcher import Launcher
from arena_server.errors import ArenaError, ConfigError
from arena_server.gpu.device_memory import DeviceMemory
from arena_server.gpu.probe import MemoryProbe
from arena_server.measurements import MeasurementStore, installed_vllm_version
from arena_server.metrics.metrics import Metrics
from arena_server.metrics.tallies import Tallies
from arena_server.pool.core import PoolCore
from arena_server.pool.pool import Pool
from arena_server.pool.records import Records
from arena_server.reload import Reloader
from arena_server.store.store import Store
from arena_server.systemd import Notifier, status_line

if TYPE_CHECKING:
    from arena_server.tracing import Tracing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Daemon:
    """The joined parts."""

    pool: Pool
    battles: Battles
    app: FastAPI
    reloader: Reloader
    notifier: Notifier


def build(
    config: Config,
    probe: MemoryProbe,
    store: MeasurementStore,
    votes: Store,
    make_engine: Callable[[str, Blueprint], Engine],
    launcher: Launcher | None,
    clock: Clock | None = None,
    listeners: Sequence[Listener] = (),
    notifier: Notifier | None = None,
) -> Daemon:
    """Join the parts; nothing runs before the application's lifespan begins. Raises ConfigError.

    `votes` keeps battles. `make_engine` makes a model's engine, `launcher` is what starts them, if anything has to.
    `listeners` hear of every request to a model, beside the daemon's own; `notifier` tells systemd.
    """
    clock = clock or SystemClock()
    notifier = notifier or Notifier()
    vllm_version = installed_vllm_version()

    def draw(config: Config, old: Blueprint | None) -> Blueprint:
        return draw_blueprint(config, probe, store, vllm_version, old.homes if old else None)

    blueprint = draw(config, None)
    engines = {name: make_engine(name, blueprint) for name in config.models}
    core = PoolCore(blueprint.specs, blueprint.budget, blueprint.limits)
    records = Records(store, blueprint.keys)
    catalogue = Catalogue(config.models, blueprint.homes)
    tallies = Tallies(lambda name: name in catalogue.models)
    pool = Pool(
        engines,
        core,
        DeviceMemory(probe),
        records,
        clock,
        reserve_bytes=blueprint.reserve_bytes,
        witness=tallies.pool,
    )
    disks = {"state": config.state_dir, "huggingface": _hugging_face_cache()}
    metrics = Metrics(tallies, pool, probe, clock, vllm_version, disks)
    reloader = Reloader(pool, catalogue, blueprint, draw, make_engine)
    reload = notifier.reloading_in(tallies.reloads.counted(reloader.reload))
    tracing = _tracing(config, clock)
    courses = Courses(clock, [tallies.requests, *listeners, *([tracing] if tracing else [])])
    battles = Battles(pool, catalogue, votes, clock, config.arena, courses)
    leaderboard = Leaderboard(votes, clock, lambda: battles.drawable)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        background: list[asyncio.Task[None]] = []
        telling = asyncio.create_task(notifier.keep_telling(partial(_status_line, pool, catalogue)))
        try:
            if launcher is not None:
                await launcher.warm_up()
                _on_sighup(reload)
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
            if tracing is not None:
                await asyncio.to_thread(tracing.close)
            if launcher is not None:
                await launcher.close()
            telling.cancel()  # the last of all: systemd's watchdog looks on to the end

    app = Application(title="arena-server", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    api_errors.install(app)
    app.include_router(health_router(pool, probe, catalogue, clock))
    app.include_router(openai_router(pool, catalogue, config.server.max_body_bytes, config.pool.wait_notice_s, courses))
    app.include_router(admin_router(pool, probe, catalogue, clock, reload))
    app.include_router(metrics_router(metrics, pool))
    app.include_router(page_router())
    app.include_router(arena_router(pool, catalogue, battles, leaderboard.get, clock, config, courses))
    return Daemon(pool, battles, app, reloader, notifier)


def _status_line(pool: Pool, catalogue: Catalogue) -> str:
    """For `systemctl status`."""
    return status_line(pool.where(name).residency for name in catalogue.models)


def _tracing(config: Config, clock: Clock) -> Tracing | None:
    """Raises ConfigError."""
    if config.tracing.endpoint is None:
        return None
    try:
        # Here and not above: the SDK is an extra, and takes longer to import than all the rest.
        from arena_server.tracing import Tracing
    except ImportError as e:
        need = "needs the extra `tracing` (pip install 'arena-server[tracing]')"
        raise ConfigError([f"{config.file}: tracing.endpoint: {need}: {e}"]) from None
    return Tracing(config.tracing.endpoint, config.tracing.sample_ratio, clock)


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


def _on_sighup(reload: Callable[[], Awaitable[Reloaded]]) -> None:
    """Let SIGHUP (`systemctl reload`) read the configuration again."""
    running: set[asyncio.Task[None]] = set()

    async def read_again() -> None:
        try:
            await reload()
        except ArenaError as e:
            logger.error("The configuration stays as it was: %s", e)

    def hang_up() -> None:
        task = asyncio.get_running_loop().create_task(read_again())
        running.add(task)
        task.add_done_callback(running.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)


def _hugging_face_cache() -> Path:
    """Where weights come to lie, as huggingface_hub has it (which takes long to import)."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home).expanduser()
