"""The evening's baseline does what the usual recipe does, and is no longer than it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from arena_server.engine.base import EngineError
from tests.bench.lru_engines import Engines
from tests.bench.program import ROOT
from tests.support.gate import turns, until


@pytest.fixture
async def two(tmp_path: Path) -> Engines:
    """With room for two."""
    return Engines(tmp_path, 2)


async def test_the_least_recently_used_engine_leaves(two: Engines) -> None:
    await two.use("a", "b", "a", "c")
    assert two.loaded == {"a", "c"}
    assert two.lru.loads == 3
    await two.lru.stop_all()
    assert two.loaded == set()


async def test_an_engine_that_nobody_uses_leaves_before_one_in_use(two: Engines) -> None:
    await two.lru.take("a")
    await two.use("b", "c")
    assert two.loaded == {"a", "c"}
    await two.lru.give_back("a")
    await two.lru.stop_all()


async def test_a_busy_victim_ends_its_answers_and_newcomers_wait_in_line(two: Engines) -> None:
    await two.lru.take("a")
    await two.lru.take("b")
    third = asyncio.create_task(two.lru.take("c"))
    await turns()
    again = asyncio.create_task(two.lru.take("a"))
    await turns()
    assert two.loaded == {"a", "b"}
    assert not third.done()
    await two.lru.give_back("a")
    await third
    assert two.loaded == {"b", "c"}
    assert not again.done()
    await two.lru.give_back("b")
    await again
    assert two.loaded == {"a", "c"}
    for name in "ac":
        await two.lru.give_back(name)
    await two.lru.stop_all()


async def test_a_loaded_engine_is_used_at_once_while_another_loads(two: Engines) -> None:
    await two.use("a")
    two.fakes["b"].load_gate.hold()
    second = asyncio.create_task(two.lru.take("b"))
    await until(lambda: two.fakes["b"].progress is not None, "a load")
    await asyncio.wait_for(two.use("a"), 5)
    two.fakes["b"].load_gate.release()
    await second
    await two.lru.give_back("b")
    await two.lru.stop_all()


async def test_two_who_wait_for_one_engine_load_it_once(two: Engines) -> None:
    await asyncio.gather(two.use("a"), two.use("a"))
    assert two.lru.loads == 1
    await two.lru.stop_all()


async def test_a_failed_load_holds_no_place(two: Engines) -> None:
    await two.use("a")
    two.fakes["b"].load_error = EngineError("no")
    with pytest.raises(EngineError):
        await two.lru.take("b")
    two.fakes["b"].load_error = None
    await two.use("b")
    assert two.loaded == {"a", "b"}
    await two.lru.stop_all()


def test_the_baseline_is_as_short_as_the_usual_recipe() -> None:
    assert len((ROOT / "bench/evening/lru.py").read_text().splitlines()) <= 150
