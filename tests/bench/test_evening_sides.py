"""Both daemons of the evening are asked the same and their waits taken alike; here over fake engines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from arena_server.config import PoolConfig
from arena_server.engine.base import EngineError
from bench.evening import pairs
from bench.evening.contenders import Arena, Contender, Lru
from bench.evening.lru import make_app
from bench.evening.play import Evening, play
from bench.evening.trace import Battle
from tests.bench.lru_engines import Engines
from tests.support.daemon_app import running_daemon
from tests.support.fake_engine import FakeEngine
from tests.support.gate import until


@contextlib.asynccontextmanager
async def arena_side(directory: Path) -> AsyncIterator[tuple[Contender, Mapping[str, FakeEngine]]]:
    """arena-server, with room for two; and its engines."""
    models = {name: {"model": f"org/{name}", "gpu_memory_utilization": 0.05} for name in "abcd"}
    async with (
        running_daemon(models, pool=PoolConfig(max_awake_models=2)) as daemon,
        aiohttp.ClientSession(daemon.url) as client,
    ):
        yield Arena(client), daemon.engines


@contextlib.asynccontextmanager
async def lru_side(directory: Path) -> AsyncIterator[tuple[Contender, Mapping[str, FakeEngine]]]:
    """The same of the plain LRU."""
    engines = Engines(directory, 2)
    config = uvicorn.Config(make_app(engines.lru, directory), port=0, log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            yield Lru(client), engines.fakes
        await engines.lru.stop_all()
    finally:
        await server.shutdown()
        await asyncio.sleep(0)  # uvicorn leaves the lifespan's task to the loop's end


SIDES = pytest.mark.parametrize("opened", [arena_side, lru_side])


@SIDES
async def test_a_block_is_played_from_nothing_and_its_loads_are_counted(opened: Any, tmp_path: Path) -> None:
    made = Evening()
    async with opened(tmp_path) as (side, engines):
        await pairs.load_s(side, "d")  # of no interest: it has left, and is not counted
        block = [Battle(number, 0.0, pair, "one two", 16) for number, pair in enumerate([("a", "b"), ("b", "a")])]
        await play(side, block, 0.01, made)
        assert made.loads == [2]
        assert [len(answers) for answers in made.blocks] == [2]
        assert made.refusals == []
        assert all(0 < answered.apart_s + answered.wait_s <= 2 * answered.whole_s for answered in made.blocks[0])
        await play(side, block[:1], 0.01, made)
        assert made.loads == [2, 2]
        await side.stop_all()
        assert not any(engine.loaded for engine in engines.values())


@SIDES
async def test_the_wait_of_a_battle_is_that_of_the_side_that_begins_later(opened: Any, tmp_path: Path) -> None:
    async with opened(tmp_path) as (side, engines):
        engines["b"].chunks.hold()
        asked = asyncio.create_task(side.battle(Battle(0, 0.0, ("a", "b"), "one two", 16)))
        await until(lambda: len(engines["a"].requests) and len(engines["b"].requests), "both to be asked")
        await asyncio.sleep(0.1)  # b's first text takes no less
        engines["b"].chunks.release()
        answered = await asked
        assert answered.wait_s >= 0.1
        assert answered.apart_s > 0


@SIDES
async def test_a_pair_is_asked_for_while_others_are_in_use(opened: Any, tmp_path: Path) -> None:
    async with opened(tmp_path) as (side, engines):
        found = await pairs.in_use(side, ("a", "b"), ("c", "d"))
        assert found.pair.whole_s >= found.pair.wait_s > 0
        assert found.others_wait_s > 0
        assert all(engine.loads >= 1 for engine in engines.values())


@SIDES
async def test_a_refused_battle_is_counted_as_such(opened: Any, tmp_path: Path) -> None:
    made = Evening()
    async with opened(tmp_path) as (side, engines):
        engines["b"].load_error = EngineError("no weights")
        await play(side, [Battle(0, 0.0, ("a", "b"), "one two", 16)], 0.01, made)
        assert made.blocks == [[]]
        assert len(made.refusals) == 1
        assert "no weights" in made.refusals[0]
        engines["b"].load_error = None
