"""The two daemons, each in processes of its own, over the same models with the same room, asked the same."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from arena_server.demo.daemon import ENGINE_ARGS, free_port
from arena_server.demo.models import make_demo_models
from bench.daemon import Models, daemon
from bench.evening.asking import Answered, chats, compare
from bench.evening.trace import Battle
from bench.processes import BenchError, running, until_healthy

ROOM = 3
MODELS_OF_A_KIND = 2  # of each of the demo's: as many that take as long to load
START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0
POLL_S = 0.02


class Contender(ABC):
    """A daemon; only one is asked at a time, and the other has no engine up then."""

    name: str

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self.client = client

    @abstractmethod
    async def battle(self, battle: Battle) -> Answered:
        """Ask for both sides of it. Raises Refused."""

    @abstractmethod
    async def stop_all(self) -> None:
        """Come to where nothing is loaded; the zygote stays."""

    @abstractmethod
    async def loads(self) -> int:
        """How many loads it has begun so far."""


class Arena(Contender):
    """arena-server, with its defaults but for the room."""

    name = "arena-server"

    def __init__(self, client: aiohttp.ClientSession) -> None:
        super().__init__(client)
        self._loads = self._seen = 0

    async def battle(self, battle: Battle) -> Answered:
        """See `Contender`."""
        return await compare(self.client, battle)

    async def stop_all(self) -> None:
        """See `Contender`."""
        models = await self._models()
        for name in models:
            async with self.client.post(f"/admin/models/{name}/stop") as response:
                response.raise_for_status()
        limit = time.monotonic() + STOP_LIMIT_S
        while any(residency != "cold" for residency in (await self._models()).values()):
            if time.monotonic() > limit:
                raise BenchError(f"{self.name}: the models did not stop: {await self._models()}")
            await asyncio.sleep(POLL_S)

    async def loads(self) -> int:
        """See `Contender`. (To be asked once in a thousand decisions, which is what the daemon remembers.)"""
        async with self.client.get("/admin/decisions") as response:
            decisions = (await response.json())["decisions"]
        self._loads += sum(entry["what"] == "load" and entry["seq"] > self._seen for entry in decisions)
        self._seen = max((entry["seq"] for entry in decisions), default=0)
        return self._loads

    async def _models(self) -> dict[str, str]:
        async with self.client.get("/admin/pool") as response:
            return {model["name"]: model["residency"] for model in (await response.json())["models"]}


class Lru(Contender):
    """The plain LRU of bench/evening/lru.py."""

    name = "plain LRU"

    async def battle(self, battle: Battle) -> Answered:
        """See `Contender`."""
        return await chats(self.client, battle)

    async def stop_all(self) -> None:
        """See `Contender`."""
        async with self.client.post("/stop") as response:
            response.raise_for_status()

    async def loads(self) -> int:
        """See `Contender`."""
        async with self.client.get("/health") as response:
            return int((await response.json())["loads"])


def demo_models(directory: Path) -> dict[str, dict[str, Any]]:
    """The demo's models, written to `directory`, each under several names: their parts of both configurations."""
    demo = make_demo_models(directory, report=lambda _: None)
    own = {"gpu_memory_utilization": 0.05, "sleep_level": 0, "engine_args": dict(ENGINE_ARGS)}
    # In turn, so that what is asked for most is not all of one architecture.
    names = ((f"{model.name}-{number}", model) for number in range(1, MODELS_OF_A_KIND + 1) for model in demo)
    return {name: {"model": str(model.path), **own} for name, model in names}


@contextlib.asynccontextmanager
async def both(directory: Path, models: Models) -> AsyncIterator[tuple[Arena, Lru]]:
    """Both of them over these models, up, with the same configuration."""
    async with (
        daemon(directory, models, {"max_awake_models": ROOM}) as served,
        _lru(directory, served.config) as lru,
    ):
        yield Arena(served.client), lru


@contextlib.asynccontextmanager
async def _lru(directory: Path, config: Path) -> AsyncIterator[Lru]:
    port, log = free_port(0), directory / "lru.log"
    with log.open("wb") as output:
        async with running("-m", "bench.evening.lru", str(config), str(port), stdout=output, stderr=output) as process:
            timeout = aiohttp.ClientTimeout(total=None)
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=timeout) as client:
                await until_healthy(client, process, START_LIMIT_S, log)
                yield Lru(client)
