"""The composition root: the only place where the parts are joined."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from arena_server import __version__
from arena_server.access.issuer import Issuer
from arena_server.access.keyring import Keyring, utc_now
from arena_server.access.limits import Limits
from arena_server.access.routes import Routes
from arena_server.access.tries import Tries
from arena_server.api import errors as api_errors
from arena_server.api.admin import admin_router
from arena_server.api.answer_cache import AnswerCache
from arena_server.api.arena import arena_router
from arena_server.api.door import Door
from arena_server.api.health import health_router
from arena_server.api.inference import INFERENCE_PATHS, Inference, InferenceFirst
from arena_server.api.keys import keys_router
from arena_server.api.metrics import metrics_router
from arena_server.api.names import Catalogue
from arena_server.api.openai import openai_router
from arena_server.api.page import page_router
from arena_server.api.registry import registry_router
from arena_server.api.request_id import Application
from arena_server.api.upload import UploadLimits, Uploads
from arena_server.api.usage import usage_router
from arena_server.arena.battles import Battles
from arena_server.arena.leaderboard import Leaderboard
from arena_server.blueprint import Blueprint, draw_blueprint
from arena_server.clock import Clock, SystemClock
from arena_server.config import Config
from arena_server.course import Courses, Listener
from arena_server.engine.base import Engine
from arena_server.engine.launcher import Launcher
from arena_server.engine.remote import check_remotes
from arena_server.errors import ArenaError, ConfigError
from arena_server.gpu.device_memory import DeviceMemory
from arena_server.gpu.probe import MemoryProbe
from arena_server.life import Life
from arena_server.measurements import MeasurementStore, installed_vllm_version
from arena_server.metrics.metrics import Metrics
from arena_server.metrics.tallies import Tallies
from arena_server.opening import Opening
from arena_server.pool.core import PoolCore
from arena_server.pool.pool import Pool
from arena_server.pool.records import Records
from arena_server.pool.remotes import Remotes
from arena_server.registry import Registry
from arena_server.reload import Reloader
from arena_server.store.key_store import KeyStore
from arena_server.store.registry_store import RegistryStore
from arena_server.store.store import Store
from arena_server.systemd import Notifier
from arena_server.usage.ledger import Ledger
from arena_server.usage.meter import UsageMeter
from arena_server.usage.price import Prices

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
    limits: Limits


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
    *,
    may_be_open: bool = False,
    any_host: bool = False,
) -> Daemon:
    """Join the parts; nothing runs before the application's lifespan begins. Raises ConfigError.

    `votes` keeps battles. `make_engine` makes a model's engine, `launcher` is what starts them, if anything has to.
    `listeners` hear of every request to a model, beside the daemon's own; `notifier` tells systemd. `may_be_open`:
    without any key everybody may do everything; `any_host`: also by names that are not this machine's own.
    """
    clock = clock or SystemClock()
    notifier = notifier or Notifier()
    vllm_version = installed_vllm_version()

    keyring = Keyring(KeyStore(votes), config, may_be_open=may_be_open)
    limits = Limits(config.access, clock, utc_now)
    tries = Tries(clock, config.access.failed_tries_per_minute)
    steps = [keyring.load]
    opening = Opening(steps)
    server = config.server
    uploads = Uploads(UploadLimits(server.max_body_bytes, server.body_memory, server.body_timeout_s))

    def draw(config: Config, old: Blueprint | None) -> Blueprint:
        keyring.check(config)
        check_remotes(config, os.environ)
        return draw_blueprint(config, probe, store, vllm_version, old.homes if old else None)

    blueprint = draw(config, None)
    engines = {name: make_engine(name, blueprint) for name in config.models}
    core = PoolCore(blueprint.specs, blueprint.budget, blueprint.limits)
    records = Records(store, blueprint.keys)
    catalogue = Catalogue(config, blueprint.homes)
    issuer = Issuer(votes, lambda: keyring.access.keys, lambda: dict(catalogue.items()))
    cache = AnswerCache(config.cache, clock)
    tallies = Tallies(lambda name: name in catalogue.models)
    routes = Routes(INFERENCE_PATHS)
    door = Door(keyring, limits, tries, routes, opening.passed, tallies.refusals.refused, any_host=any_host)
    pool = Pool(
        engines,
        core,
        DeviceMemory(probe),
        records,
        clock,
        reserve_bytes=blueprint.reserve_bytes,
        witness=tallies.pool,
    )
    remotes = Remotes(pool, lambda: catalogue.models)
    disks = {"state": config.state_dir, "huggingface": _hugging_face_cache()}
    metrics = Metrics(tallies, pool, probe, clock, vllm_version, disks)
    reloader = Reloader(pool, catalogue, blueprint, draw, make_engine, [door.configure, cache.configure])
    registry = Registry(RegistryStore(votes), reloader)
    steps.append(registry.load)
    reload = notifier.reloading_in(tallies.reloads.counted(reloader.reload))
    tracing = _tracing(config, clock)
    ledger = Ledger(votes)
    meter = UsageMeter(ledger, clock, utc_now, partial(_prices, catalogue), limits.take)
    steps.append(partial(_restore, votes, ledger, limits))
    courses = Courses(clock, [tallies.requests, meter, *listeners, *([tracing] if tracing else [])])
    battles = Battles(pool, catalogue, votes, clock, config.arena, courses)
    leaderboard = Leaderboard(votes, clock, lambda: battles.drawable)

    beside = [opening.run, keyring.watch, registry.run, meter.run, remotes.run]
    if launcher is not None:
        beside.append(partial(_open, votes))
    if probe.gpu:
        beside.append(pool.watch_devices)
    endings = [battles.close, leaderboard.close, meter.close, votes.close]  # the meter's when nothing is answered
    if tracing is not None:
        endings.append(partial(asyncio.to_thread, tracing.close))
    life = Life(pool, launcher, notifier, reload, config.models, beside, endings)
    about = {"title": "arena-server", "version": __version__}
    app = Application(
        lambda app: door.before(uploads.before(app)), lifespan=life, docs_url=None, redoc_url=None, **about
    )
    api_errors.install(app)
    notice_s = config.pool.wait_notice_s
    inference = {path: Inference(pool, catalogue, notice_s, path, courses, cache) for path in INFERENCE_PATHS}
    app.add_middleware(InferenceFirst, routes=inference)
    routers = [
        health_router(pool, probe, catalogue, clock),
        openai_router(catalogue, inference),
        admin_router(pool, probe, catalogue, clock, reload, keyring.admits),
        keys_router(issuer, keyring),
        registry_router(registry, lambda name: _residency(pool, catalogue, name)),
        usage_router(meter, ledger),
        metrics_router(metrics, pool, catalogue),
        page_router(),
        arena_router(pool, catalogue, battles, leaderboard.get, clock, config, courses),
    ]
    for router in routers:
        # As they are: `include_router` makes each route anew, which takes FastAPI as long as the first time.
        app.router.routes += router.routes
    return Daemon(pool, battles, app, reloader, notifier, limits)


def _prices(catalogue: Catalogue, name: str) -> Prices | None:
    model = catalogue.models.get(name)
    return None if model is None else Prices(model.input_cost, model.output_cost)


async def _restore(votes: Store, ledger: Ledger, limits: Limits) -> None:
    """What keys have taken today counts on: else a restart would give them another day's tokens."""
    if not votes.absent:
        today = utc_now().date()
        limits.restore(today, await ledger.tokens_of_day(today))


def _residency(pool: Pool, catalogue: Catalogue, name: str) -> str | None:
    return str(pool.where(name).residency) if name in catalogue.models else None


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
        logger.error("Nothing can be kept: %s", e)


def _hugging_face_cache() -> Path:
    """Where weights come to lie, as huggingface_hub has it (which takes long to import)."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home).expanduser()
