"""The daemon as a process: its port, its server, its engines' starting, its end."""

from __future__ import annotations

import errno
import faulthandler
import gc
import itertools
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from arena_server import __version__
from arena_server.access.address import is_loopback
from arena_server.access.exposure import check_exposure
from arena_server.api.http_protocol import HttpProtocol
from arena_server.app import Daemon, build
from arena_server.blueprint import Blueprint
from arena_server.config import Config, ServerConfig
from arena_server.config_devices import check_devices
from arena_server.console.key import VARIABLE as OPERATORS_VARIABLE
from arena_server.engine.base import Engine
from arena_server.engine.command import engine_command
from arena_server.engine.launcher import Launcher
from arena_server.engine.remote import RemoteEngine
from arena_server.engine.vllm import VllmEngine
from arena_server.errors import ArenaError, ConfigError
from arena_server.file_limit import most_connections, raise_file_limit
from arena_server.gpu.probe import MemoryProbe, open_probe
from arena_server.log import set_up_logging
from arena_server.measurements import MeasurementStore
from arena_server.pool.pool import Pool
from arena_server.run_dir import make_run_dir, remove_run_dir
from arena_server.store.store import Store
from arena_server.store.url import store_url
from arena_server.systemd import Notifier

logger = logging.getLogger(__name__)

# How long another thread may keep the interpreter while the event loop waits for it. With Python's 5 ms, what the store
# writes each second held streams up for 30 ms.
SWITCH_S = 0.0005
NOT_STARTED = 3  # uvicorn's own exit status for that


class Server(uvicorn.Server):
    """Uvicorn, telling the pool first when it begins to shut down, and systemd what happens."""

    def __init__(self, config: uvicorn.Config, pool: Pool, notifier: Notifier | None = None) -> None:
        super().__init__(config)
        self._pool = pool
        self._notifier = notifier or Notifier()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, take connections, and say so."""
        await super().startup(sockets)
        sys.setswitchinterval(SWITCH_S)
        gc.freeze()  # what the daemon is made of stays: no collection, in the midst of streams, needs to look at it
        gc.enable()  # see `cli`
        if self.started:  # and not one whose application failed: some versions of uvicorn come here with that
            self._notifier.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse who waits for a model, let running answers finish within the grace, then end (uvicorn)."""
        logger.info("Shutting down; running answers get %s s", self.config.timeout_graceful_shutdown)
        self._notifier.stopping(self.config.timeout_graceful_shutdown or 0)
        self._pool.refuse_new()
        await super().shutdown(sockets)


def serve(config: Config, notifier: Notifier | None = None, *, insecure: bool = False) -> int:
    """Run the daemon until a signal ends it. Returns the exit status.

    `insecure`: without keys, too, other machines may reach it. Raises ConfigError, CannotListen or DriverFailed before
    anything is started.
    """
    notifier = notifier or Notifier()
    if notifier.watchdog_s:
        faulthandler.enable()  # systemd ends a daemon that is stuck with SIGABRT: this says where it was
    set_up_logging(config.log_level)
    probe = open_probe()
    check_devices(config, probe.devices)
    listener = listen(config)
    address = listener.getsockname()[0]
    may_be_open = check_exposure(config, address, insecure=insecure)
    run_dir = make_run_dir(config.run_dir)
    try:
        store = MeasurementStore.open(config.state_dir / "measurements.sqlite")
        launcher = Launcher(config.engine_start, _engine_environment(config, gpu=probe.gpu), secret_variables(config))
        votes = Store(store_url(config.arena.database, config.state_dir))
        engines = _engine_maker(probe, run_dir, launcher)
        wide = not is_loopback(address)
        daemon = build(
            config, probe, store, votes, engines, launcher, notifier=notifier, may_be_open=may_be_open, any_host=wide
        )
        _announce(config, probe, listener)
        # Uvicorn raises the signal that ended it once more at its end, for handlers that were there before its own:
        # the default ones would end the process before what is below.
        # (SIGHUP: one that comes before the lifespan has set its own would end the process, too.)
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, lambda *_: None)
        running = server(config, daemon)
        running.run(sockets=[listener])
    finally:
        remove_run_dir(run_dir)
    logger.info("Stopped")
    return 0 if running.started else NOT_STARTED


def server(config: Config, daemon: Daemon) -> Server:
    """The HTTP server of a daemon."""
    settings = http_settings(daemon.app, config.server, most_connections(raise_file_limit()))
    return Server(settings, daemon.pool, daemon.notifier)


def http_settings(app: FastAPI, config: ServerConfig, most: int | None) -> uvicorn.Config:
    """Uvicorn's settings. So many clients at `most` may be connected."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        limit_concurrency=most,
        log_config=None,
        access_log=False,
        server_header=False,
        # Uvicorn's 5 s are just what OpenAI's client (httpx) keeps an idle connection for, and less than nginx's 60:
        # a request sent as the connection closes fails, though the daemon is well.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(config.shutdown_grace_s),
        # Else uvicorn takes them from a variable of its environment.
        proxy_headers=True,
        forwarded_allow_ips=list(config.trusted_proxies),
    )


def _engine_maker(probe: MemoryProbe, run_dir: Path, launcher: Launcher) -> Callable[[str, Blueprint], Engine]:
    numbers = itertools.count(1)

    def make(name: str, blueprint: Blueprint) -> Engine:
        pool, model = blueprint.config.pool, blueprint.config.models[name]
        if model.remote:
            return RemoteEngine(name, model, os.environ)
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
        local = sum(not model.remote for model in config.models.values()) or 1
        together = min(config.pool.max_awake_models or local, local)
        defaults["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // together))
    return {name: value for name, value in defaults.items() if name not in os.environ}


def secret_variables(config: Config) -> frozenset[str]:
    """The variables that hold keys: of no concern to engines, whose models' code may read them."""
    keys = (key.key_env for key in config.access.keys.values())
    remotes = (model.api_key_env for model in config.models.values())
    return frozenset(name for name in (OPERATORS_VARIABLE, *keys, *remotes) if name is not None)


class CannotListen(ArenaError):
    """The port cannot be had now: another time, it may be."""

    status = 503
    kind = "service_unavailable_error"
    code = "cannot_listen"


def listen(config: Config) -> socket.socket:
    """The public port, bound before anything is started. Raises ConfigError, and CannotListen."""
    host, port = config.server.host, config.server.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as e:
        # asyncio's and socket's own texts repeat the address.
        why = os.strerror(e.errno) if e.errno and e.errno > 0 else e.strerror
        message = f"{config.file}: server: cannot listen on {host}:{port}: {why}"
        # At boot, when the address has not come up yet, or beside something that is about to end.
        if e.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, socket.EAI_AGAIN):
            raise CannotListen(message) from None
        raise ConfigError([message]) from None


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
