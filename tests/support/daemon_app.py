"""The daemon's parts over fake engines, joined as `arena_server.app.build` joins the real ones."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from arena_server.api import errors as api_errors
from arena_server.api.health import health_router
from arena_server.api.openai import openai_router
from arena_server.app import _core
from arena_server.clock import Clock, SystemClock
from arena_server.config import Config
from arena_server.devices import DeviceInfo
from arena_server.gpu.memory_return import MemoryReturn
from arena_server.pool.pool import ModelView, Pool
from tests.support.fake_engine import FakeEngine
from tests.support.gate import until
from tests.support.server import serving

TOTAL_BYTES = 100 << 30

# Two of them fit at a time.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "alpha": {"model": "org/alpha", "gpu_memory_utilization": 0.4, "aliases": ("gpt-4o", "org/alias")},
    "beta": {"model": "org/beta", "gpu_memory_utilization": 0.4},
    "org/gamma": {"model": "org/gamma", "gpu_memory_utilization": 0.4},
}


class FakeProbe:
    """One GPU whose bytes in use are what the test says."""

    gpu = True
    devices = (DeviceInfo(index=0, name="Fake GPU", total_bytes=TOTAL_BYTES),)

    def __init__(self) -> None:
        self.used = 0
        self.reads = 0
        self.error: Exception | None = None

    def used_bytes(self, index: int) -> int:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.used


class Hands:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time


@dataclass(frozen=True, slots=True)
class Parts:
    """A pool over fake engines."""

    config: Config
    engines: Mapping[str, FakeEngine]
    probe: FakeProbe
    pool: Pool

    def view(self, name: str) -> ModelView:
        """One model as the pool sees it."""
        return next(v for v in self.pool.views() if v.name == name)

    async def idle(self, name: str) -> None:
        """Wait until nobody has or wants the model."""
        await until(lambda: not self.view(name).running and not self.view(name).waiting, f"{name} to be idle")


@dataclass(frozen=True, slots=True)
class FakeDaemon(Parts):
    """The same behind a port."""

    port: int

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def parts(
    models: Mapping[str, Mapping[str, Any]] = MODELS, clock: Clock | None = None, **sections: Any
) -> Iterator[Parts]:
    """Pool and engines; `sections` are the rest of the configuration. The caller closes the pool."""
    config = Config.model_validate({"models": models, **sections})
    homes = dict.fromkeys(config.models, (0,))
    probe = FakeProbe()
    # Short, as Unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        engines = {name: FakeEngine(name, Path(directory, str(i))) for i, name in enumerate(config.models)}
        pool = Pool(engines, _core(config, probe, homes), MemoryReturn(probe), clock or SystemClock())
        yield Parts(config, engines, probe, pool)
    for engine in engines.values():
        assert not engine.faults


@contextlib.asynccontextmanager
async def running_pool(
    models: Mapping[str, Mapping[str, Any]] = MODELS, clock: Clock | None = None, **sections: Any
) -> AsyncIterator[Parts]:
    """As `parts`, with the pool closed at the end."""
    with parts(models, clock, **sections) as joined:
        try:
            yield joined
        finally:
            for engine in joined.engines.values():
                engine.stop_gate.release()
            await joined.pool.close()


@contextlib.asynccontextmanager
async def running_daemon(
    models: Mapping[str, Mapping[str, Any]] = MODELS, **sections: Any
) -> AsyncIterator[FakeDaemon]:
    """A daemon of fake engines on a real port."""
    with parts(models, **sections) as joined:

        @contextlib.asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            yield
            await joined.pool.close()

        app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None)
        api_errors.install(app)
        config, homes = joined.config, dict.fromkeys(joined.config.models, (0,))
        app.include_router(health_router(joined.pool, joined.probe, config.models, homes, SystemClock()))
        app.include_router(openai_router(joined.pool, config.models, config.server.max_body_bytes))
        async with serving(app, joined.pool) as port:
            daemon = FakeDaemon(config, joined.engines, joined.probe, joined.pool, port)
            try:
                yield daemon
            finally:
                for engine in joined.engines.values():
                    engine.load_gate.release()
                    engine.chunks.release()
                    engine.stop_gate.release()
