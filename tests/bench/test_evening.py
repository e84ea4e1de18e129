"""The evening's benchmark works and says what it promises. What it measures is no test's business."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from arena_server.config import PoolConfig
from arena_server.engine.base import EngineError
from bench.evening import pairs
from bench.evening.asking import Answered
from bench.evening.contenders import Arena, Contender, Lru
from bench.evening.judge import Found, judged, missed
from bench.evening.lru import LruEngines, make_app
from bench.evening.pairs import InUse
from bench.evening.play import Evening, play
from bench.evening.trace import GAP_LOADS, LEAST_TOKENS, MOST_TOKENS, Battle, arrivals, evening
from bench.report import machine
from tests.support.daemon_app import running_daemon
from tests.support.fake_engine import FakeEngine
from tests.support.gate import turns, until

ROOT = Path(__file__).parents[2]
MODELS = ["one", "two", "three", "four", "five", "six"]
PARTS = ("--battles", "2", "--runs", "0", "--json")


# The trace


def test_a_seed_makes_one_evening_and_another_seed_another() -> None:
    assert evening(MODELS, 20, 4, seed=1) == evening(MODELS, 20, 4, seed=1)
    assert evening(MODELS, 20, 4, seed=1) != evening(MODELS, 20, 4, seed=2)


def test_the_blocks_are_the_whole_evening_and_each_begins_anew() -> None:
    blocks = evening(MODELS, 203, 4, seed=1)
    assert [len(block) for block in blocks] == [50, 51, 51, 51]
    assert [battle.number for block in blocks for battle in block] == list(range(203))
    for block in blocks:
        times = [battle.at_loads for battle in block]
        assert times == sorted(times)
        assert 0 < times[0] < 10 * GAP_LOADS


def test_battles_are_of_two_models_and_of_the_popular_ones_more_often() -> None:
    battles = [battle for block in evening(MODELS, 2000, 4, seed=1) for battle in block]
    asked = Counter(model for battle in battles for model in battle.models)
    assert all(len(set(battle.models)) == 2 for battle in battles)
    assert all(LEAST_TOKENS <= battle.tokens <= MOST_TOKENS for battle in battles)
    assert [model for model, _ in asked.most_common()] == MODELS
    first = Counter(battle.models[0] == min(battle.models, key=MODELS.index) for battle in battles)
    assert 0.4 < first[True] / len(battles) < 0.6  # the popular one is not always the one asked first


def test_people_come_at_the_rate_that_is_said() -> None:
    times = arrivals(3000, random.Random(1))
    assert times[-1] / 3000 == pytest.approx(GAP_LOADS, rel=0.1)


# The baseline


class Engines:
    """Fake engines under the LRU's hand."""

    def __init__(self, directory: Path, room: int) -> None:
        self.fakes = {name: FakeEngine(name, directory / name) for name in "abcd"}
        self.lru = LruEngines(dict(self.fakes), room)

    @property
    def loaded(self) -> set[str]:
        return {name for name, fake in self.fakes.items() if fake.loaded}

    async def use(self, *names: str) -> None:
        """Each of them, for a moment."""
        for name in names:
            await self.lru.take(name)
            await self.lru.give_back(name)


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


# Both daemons, over fake engines


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


# The verdict


def an_evening(waits_s: list[float], loads: int, refusals: list[str] | None = None) -> Evening:
    answered = [Answered((wait_s / 2, wait_s), wait_s + 1) for wait_s in waits_s]
    return Evening([answered], [loads], [60.0], refusals or [])


def test_the_goal_is_the_p95_wait_the_loads_and_no_refusal() -> None:
    theirs = an_evening([1.0] * 18 + [8.0, 20.0], 30)  # p95: the 19th of 20
    assert missed(an_evening([2.0] * 18 + [8.0, 99.0], 30), theirs) == []
    assert "p95" in missed(an_evening([1.0] * 18 + [8.1, 9.0], 30), theirs)[0]
    assert "31 loads" in missed(an_evening([1.0] * 20, 31), theirs)[0]
    assert "refused" in missed(an_evening([1.0] * 20, 30, ["battle 3: 503"]), theirs)[0]
    assert missed(an_evening([], 30), theirs)


def test_the_report_has_raw_waits_and_the_ratios() -> None:
    found = Found(unit_s=2.0)
    for name, wait_s in ((Arena.name, 3.0), (Lru.name, 6.0)):
        pair = Answered((wait_s - 1, wait_s), wait_s + 1)
        found.load_s[name].append(wait_s)
        found.cold[name].append(pair)
        found.in_use[name].append(InUse(pair, wait_s))
        found.evenings[name] = an_evening([wait_s] * 8, int(wait_s))
    report = judged(machine(), found, MODELS, evening(MODELS, 8, 1, seed=1), 1)
    assert report.met
    assert report.figures["ratios"] == {
        "load_s": 0.5, "cold_pair_s": 0.5, "pair_in_use_s": 0.5, "wait_p50": 0.5, "wait_p95": 0.5, "loads": 0.5
    }  # fmt: skip
    assert report.figures["evening"][Arena.name]["wait_s"] == [[3.0] * 8]
    assert any("same zygote" in line or "arena-server's zygote" in line for line in report.lines)


# All of it


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (scripts/setup)")
async def test_a_short_evening_ends_with_its_figures_as_json() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.evening", *PARTS),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(160):
            output, progress = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()  # it ends what it started
            await process.wait()
    assert process.returncode == 0, progress.decode()

    last = json.loads(output.decode().splitlines()[-1])
    assert set(last) == {"bench", "figures", "goal", "met", "machine", "versions", "lines"}
    assert last["bench"] == "evening"
    figures = last["figures"]
    assert len(figures["models"]) == 6
    assert figures["room"] == 3
    for name in (Arena.name, Lru.name):
        assert len(figures["load_s"][name]) == 1
        found = figures["evening"][name]
        assert [wait > 0 for block in found["wait_s"] for wait in block] == [True] * 2
        assert sum(found["loads"]) >= 2
        assert found["refusals"] == []
    assert last["met"] == (not figures["missed"])
