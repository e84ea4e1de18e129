"""A model that another server runs, behind an OpenAI-compatible URL: nothing of it is on this host."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from arena_server.clock import Clock, SystemClock
from arena_server.config import Config
from arena_server.config_model import ModelConfig
from arena_server.engine.base import EngineError, LoadFacts, LoadProgress
from arena_server.engine.remote_health import HealthCheck, Unhealthy
from arena_server.engine.remote_url import BackendUrl, proxy_for
from arena_server.errors import ConfigError

if TYPE_CHECKING:
    from arena_server.engine.remote_client import RemoteClient, RemoteLimits

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 10.0
FAILURES_IN_A_ROW = 3
LOG_LINES = 200


class _Life:
    """From one load to its stop; implements `Watch`. Requests that outlive it must not end the next one."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.doubt = asyncio.Event()
        self._note = note

    def gone(self, reason: str) -> None:
        """See `Watch`."""
        if not self.death.done():
            self._note(reason)
            self.death.set_result(reason)

    def doubted(self) -> None:
        """See `Watch`."""
        self.doubt.set()

    async def doubted_within(self, seconds: float) -> bool:
        """Wait so long, or until a request has met with trouble; whether one has."""
        try:
            async with asyncio.timeout(seconds):
                await self.doubt.wait()
        except TimeoutError:
            return False
        self.doubt.clear()
        return True


class RemoteEngine:
    """Connects to the server of one model and looks after it; implements `Engine`.

    A load is a look at its list of models, and so is every later look, each 10 s while no answer comes. It has died
    after 3 in a row that failed; at once if a request finds no way to it, or after one that broke off and one look.
    """

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        environment: Mapping[str, str],
        *,
        clock: Clock | None = None,
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        """The key and the proxy are those of `environment` now. Raises ConfigError if one is missing or of no use."""
        if config.backend_url is None:
            raise ValueError(f"{name} is no remote model")
        self._name = name
        self._config = config
        self._url = BackendUrl.of(config.backend_url)
        self._key = _api_key(name, config, environment)
        self._proxy = _proxy(name, self._url, environment)
        self._health = HealthCheck(self._url, config.model, config.api_key_env)
        self._clock = clock or SystemClock()
        self._check_every_s = check_every_s
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._progress: LoadProgress | None = None
        self._connection: RemoteClient | None = None  # from the beginning of a load
        self._client: RemoteClient | None = None  # from its end
        self._life: _Life | None = None  # likewise, and beyond its stop
        self._looking: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """See `Engine`."""
        return self._name

    @property
    def served_name(self) -> str:
        """See `Engine`."""
        return self._config.model

    @property
    def remote(self) -> bool:
        """See `Engine`."""
        return True

    @property
    def progress(self) -> LoadProgress | None:
        """See `Engine`."""
        return self._progress

    @property
    def facts(self) -> LoadFacts:
        """See `Engine`: nothing is known of a remote one."""
        return LoadFacts()

    @property
    def pids(self) -> frozenset[int]:
        """See `Engine`: there are none here."""
        return frozenset()

    @property
    def log_tail(self) -> list[str]:
        """See `Engine`: what was seen of its server."""
        return list(self._log)

    @property
    def client(self) -> RemoteClient:
        """See `Engine`."""
        if self._client is None:
            raise RuntimeError(f"engine {self._name} is not loaded")
        return self._client

    async def load(self, kv_cache_bytes: int | None = None) -> None:
        """See `Engine`."""
        self._progress = LoadProgress("connecting")
        self._note(f"connecting to {self._url.api}")
        try:
            # With aiohttp, which takes 0.3 s to import: not in the middle of others' streams.
            kind, limits = await asyncio.to_thread(_imported)
            config = self._config
            bounds = limits(config.connect_timeout_s, config.timeout_s, config.retries)
            life = _Life(self._note)
            client = kind(self._name, self._url, self._key, bounds, life, self._clock, self._proxy)
            self._connection = client
            await self._look(client)
        except Unhealthy as e:
            self._note(str(e))
            raise EngineError(str(e)) from e
        finally:
            self._progress = None
        if self._key is not None and self._url.exposed:
            self._warn(f"the API key goes to {self._url.origin} unencrypted (use https)")
        self._client, self._life = client, life
        self._looking = asyncio.create_task(self._look_after(client, life))

    async def sleep(self, level: int) -> None:
        """See `Engine`: it is never asked to."""
        raise EngineError("a remote model cannot sleep")

    async def wake(self) -> None:
        """See `Engine`: it is never asked to."""
        raise EngineError("a remote model cannot sleep")

    async def stop(self) -> None:
        """See `Engine`: only the connections are this daemon's to end."""
        looking, self._looking = self._looking, None
        connection, self._connection = self._connection, None
        self._client = self._progress = None
        if looking is not None:
            looking.cancel()
            await asyncio.wait([looking])
        if connection is not None:
            await connection.close()
            self._note("connections closed")

    async def died(self) -> str:
        """See `Engine`."""
        if self._life is None:
            raise RuntimeError(f"engine {self._name} is not loaded")
        return await asyncio.shield(self._life.death)

    async def _look_after(self, client: RemoteClient, life: _Life) -> None:
        failures = 0
        while not life.death.done():
            doubted = await life.doubted_within(self._check_every_s)
            if not doubted and client.heard_within(self._check_every_s):
                failures = 0  # it answers: nobody need ask
                continue
            try:
                await self._look(client)
                failures = 0
            except Unhealthy as e:
                failures += 1
                self._warn(str(e))
                if failures >= FAILURES_IN_A_ROW or (doubted and e.surely):
                    life.gone(str(e))

    async def _look(self, client: RemoteClient) -> None:
        """Raises Unhealthy."""
        if (oddity := await self._health.look(client)) is not None and oddity not in self._log:
            self._warn(oddity)

    def _note(self, line: str) -> None:
        self._log.append(line)

    def _warn(self, line: str) -> None:
        self._note(line)
        logger.warning("[%s] %s", self._name, line)


def check_remotes(config: Config, environment: Mapping[str, str]) -> None:
    """Check what remote models need of the environment. Raises ConfigError, with a line for each thing."""
    lines: list[str] = []
    for name, model in config.models.items():
        if model.backend_url is not None:
            for check in (
                partial(_api_key, name, model, environment),
                partial(_proxy, name, BackendUrl.of(model.backend_url), environment),
            ):
                try:
                    check()
                except ConfigError as e:
                    lines += [f"{config.file}: {line}" for line in e.lines]
    if lines:
        raise ConfigError(lines)


def _proxy(name: str, url: BackendUrl, environment: Mapping[str, str]) -> str | None:
    try:
        return proxy_for(url, environment)
    except ValueError as e:
        what = f"models.{name}.backend_url: the proxy that the environment names for it (NO_PROXY: not for it): {e}"
        raise ConfigError([what]) from None


def _api_key(name: str, config: ModelConfig, environment: Mapping[str, str]) -> str | None:
    """The key of a remote model; None if it needs none. Raises ConfigError, which never shows it."""
    variable = config.api_key_env
    if variable is None:
        return None
    key = environment.get(variable, "").strip()
    where = f"models.{name}.api_key_env: the environment variable {variable}"
    if not key:
        raise ConfigError([f"{where} is not set (it has to hold the API key for {config.backend_url})"])
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError([f"{where} holds no API key: something in it is not a letter, digit or sign"])
    return key


def _imported() -> tuple[type[RemoteClient], type[RemoteLimits]]:
    from arena_server.engine.remote_client import RemoteClient, RemoteLimits

    return RemoteClient, RemoteLimits
