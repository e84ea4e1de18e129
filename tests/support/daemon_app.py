"""The daemon's parts over fake engines, joined as `arena_server.app.build` joins the real ones."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arena_server.app import Daemon, build
from arena_server.arena.battles import Battles
from arena_server.blueprint import Blueprint
from arena_server.clock import Clock
from arena_server.config import Config, load_config
from arena_server.course import Listener
from arena_server.engine.base import Engine, LoadFacts
from arena_server.engine.remote import RemoteEngine
from arena_server.measurements import MeasurementStore
from arena_server.pool.pool import Pool
from arena_server.pool.views import ModelView
from arena_server.store.database import Database
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from tests.support.fake_engine import FakeEngine
from tests.support.fake_probe import FakeProbe
from tests.support.gate import until
from tests.support.server import serving
from tests.support.simulated_memory import SimulatedMemory

TOTAL_BYTES = 100 << 30

# Two of them fit at a time.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "alpha": {"model": "org/alpha", "gpu_memory_utilization": 0.4, "aliases": ("gpt-4o", "org/alias")},
    "beta": {"model": "org/beta", "gpu_memory_utilization": 0.4},
    "org/gamma": {"model": "org/gamma", "gpu_memory_utilization": 0.4},
}


ASLEEP_BYTES = 1 << 30
REMOTE_CHECK_S = 0.05
KV_CACHE_BYTES = 20 << 30
WEIGHTS_BYTES = 10 << 30
# Sleeping models' weights: beyond what any test's models need, whatever this machine has.
SLEEP_MEMORY_BYTES = 1 << 40


class SimulatedProbe(FakeProbe):
    """GPUs in whose memory is what a `SimulatedMemory` says, beside what the test adds in `uses`."""

    def __init__(self, memory: SimulatedMemory) -> None:
        totals = set(memory.totals.values())
        assert len(totals) == 1, "the devices of a FakeProbe are alike"
        super().__init__(len(memory.totals), totals.pop())
        self.memory = memory

    def used_bytes(self, index: int) -> int:
        """See `MemoryProbe`."""
        return super().used_bytes(index) + self.memory.used_bytes(index)


class Hands:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time


@dataclass(frozen=True, slots=True)
class Parts:
    """A daemon's parts over fake engines. `engines` are those made last, `made` all that ever were; remote models
    have real ones, which are in neither.
    """

    config: Config
    engines: dict[str, FakeEngine]
    made: list[FakeEngine]
    probe: FakeProbe
    votes: Store
    daemon: Daemon

    @property
    def pool(self) -> Pool:
        """Its pool."""
        return self.daemon.pool

    @property
    def battles(self) -> Battles:
        """Its blind battles."""
        return self.daemon.battles

    def view(self, name: str) -> ModelView:
        """One model as the pool sees it."""
        return next(v for v in self.pool.view().models if v.name == name)

    async def idle(self, name: str) -> None:
        """Wait until nobody has or wants the model."""
        await until(lambda: not self.view(name).running and not self.view(name).waiting, f"{name} to be idle")

    async def come_to_rest(self) -> None:
        """Let everything go on to its end, and check that nobody keeps a lease or a place."""
        self.open_gates()
        for view in self.pool.view().models:
            await self.idle(view.name)
        assert not self.pool._core.leases

    def open_gates(self) -> None:
        """Let everything that a test holds go on."""
        for engine in self.made:
            for gate in (engine.load_gate, engine.chunks, engine.sleep_gate, engine.wake_gate, engine.stop_gate):
                gate.release()


@dataclass(frozen=True, slots=True)
class FakeDaemon(Parts):
    """The same behind a port."""

    port: int

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


def config_of(models: Mapping[str, Mapping[str, Any]], **sections: Any) -> Config:
    """A configuration; models sleep only where a test says so."""
    local = {"sleep_level": 0}
    every = {n: m if "backend_url" in m else local | dict(m) for n, m in models.items()}
    return Config.model_validate({"models": every, **sections})


@functools.cache
def _new_database() -> bytes:
    """An empty one; to make it anew for every daemon that counts a request would take 0.1 s of each test."""
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        path = Path(directory, "arena.sqlite")
        database = Database(sqlite_url(path), 10.0)
        database.open()
        with database.transaction(write=False) as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        return path.read_bytes()


@contextlib.contextmanager
def parts(
    models: Mapping[str, Mapping[str, Any]] = MODELS,
    clock: Clock | None = None,
    store: MeasurementStore | None = None,
    probe: FakeProbe | None = None,
    memory: SimulatedMemory | None = None,
    file: Path | None = None,
    listeners: Sequence[Listener] = (),
    may_be_open: bool = True,
    any_host: bool = False,
    **sections: Any,
) -> Iterator[Parts]:
    """Pool and engines; `sections` are the rest of the configuration. The caller closes the pool.

    The engines share `memory`, whose figures the probe then has. With a `file`, that is the configuration.
    """
    config = config_of(models, **sections) if file is None else load_config(file)
    probe = probe or (FakeProbe() if memory is None else SimulatedProbe(memory))
    engines: dict[str, FakeEngine] = {}
    numbers = itertools.count()
    made: list[FakeEngine] = []
    # Short, as Unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:

        def make_engine(name: str, blueprint: Blueprint) -> Engine:
            if (model := blueprint.config.models[name]).remote:
                return RemoteEngine(name, model, os.environ, check_every_s=REMOTE_CHECK_S)
            engine = FakeEngine(name, Path(directory, str(next(numbers))), memory, devices=blueprint.homes[name])
            if memory is not None:
                # All that it may have, as vLLM's have.
                engine.awake_bytes = int(TOTAL_BYTES * blueprint.config.models[name].gpu_memory_utilization)
                engine.asleep_bytes = ASLEEP_BYTES
                engine.facts = LoadFacts(KV_CACHE_BYTES, WEIGHTS_BYTES)
            engines[name] = engine
            made.append(engine)
            return engine

        database = Path(directory, "arena.sqlite")
        database.write_bytes(_new_database())
        votes = Store(config.arena.database or sqlite_url(database))
        daemon = build(
            config,
            probe,
            store or MeasurementStore(None),
            votes,
            make_engine,
            None,
            clock,
            listeners,
            may_be_open=may_be_open,
            any_host=any_host,
        )
        yield Parts(config, engines, made, probe, votes, daemon)
    for engine in made:
        assert not engine.faults


@contextlib.asynccontextmanager
async def running_pool(
    models: Mapping[str, Mapping[str, Any]] = MODELS, clock: Clock | None = None, **rest: Any
) -> AsyncIterator[Parts]:
    """As `parts`, with the pool closed at the end."""
    with parts(models, clock, **rest) as joined:
        try:
            yield joined
        finally:
            joined.open_gates()
            await joined.pool.close()


@contextlib.asynccontextmanager
async def running_daemon(models: Mapping[str, Mapping[str, Any]] = MODELS, **rest: Any) -> AsyncIterator[FakeDaemon]:
    """A daemon of fake engines on a real port."""
    with parts(models, **rest) as joined:
        async with serving(joined.daemon.app, joined.pool, settings=joined.config.server) as port:
            daemon = FakeDaemon(
                joined.config, joined.engines, joined.made, joined.probe, joined.votes, joined.daemon, port
            )
            try:
                yield daemon
            finally:
                joined.open_gates()
