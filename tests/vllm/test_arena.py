"""The arena over four real models with room for two."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from arena_server.demo.events import events
from arena_server.demo.models import DemoModel
from tests.vllm.daemon import ENDLESS, Daemon, model_config
from tests.vllm.engines import running_in_vllm

LLAMA, MISTRAL, QWEN, OTHER = "tiny-llama", "tiny-mistral", "tiny-qwen", "another-llama"
PROMPT = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def arena(models: dict[str, DemoModel], directory: Path) -> Iterator[Daemon]:
    configured = {name: model_config(m.path) for name, m in models.items()}
    configured[OTHER] = model_config(models[LLAMA].path)
    with Daemon(directory, configured, pool={"max_awake_models": 2}) as running:
        yield running


@pytest.fixture
async def client(arena: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(arena.url, timeout=aiohttp.ClientTimeout(total=150)) as session:
        yield session


async def fought(client: aiohttp.ClientSession, models: list[str] | None = None) -> tuple[str, dict[str, str]]:
    """One battle of one turn: its id, and both texts."""
    texts = {"a": "", "b": ""}
    battle = ""
    body = {"messages": PROMPT, "max_tokens": 40, "temperature": 0, **({"models": models} if models else {})}
    async with client.post("/v1/arena/battles", json=body) as response:
        assert response.status == 200, await response.text()
        async for kind, data in events(response):
            if kind == "battle":
                battle = data["id"]
            elif kind == "delta":
                texts[data["side"]] += data["text"]
            elif kind == "end":
                assert data["votable"], data
    return battle, texts


async def vote(client: aiohttp.ClientSession, battle: str, says: str) -> dict[str, Any]:
    async with client.post(f"/v1/arena/battles/{battle}/vote", json={"vote": says}) as response:
        assert response.status == 200, await response.text()
        body: dict[str, Any] = await response.json()
        return body


async def test_two_battles_at_once_over_four_models_with_room_for_two_finish(
    arena: Daemon, client: aiohttp.ClientSession
) -> None:
    battles = await asyncio.gather(fought(client, [LLAMA, MISTRAL]), fought(client, [QWEN, OTHER]))
    names = set()
    for battle, texts in battles:
        assert all(texts.values())
        reveal = (await vote(client, battle, "tie"))["reveal"]
        for side in reveal["sides"].values():
            names.add(side["model"])
            (turn,) = side["turns"]
            assert turn["residency"] == "cold"
            assert turn["usage"]["completion_tokens"] > 0
    assert names == {LLAMA, MISTRAL, QWEN, OTHER}
    async with client.get("/v1/arena/leaderboard") as response:
        board = await response.json()
    assert board["votes"] == 2
    assert {model["model"] for model in board["models"]} == names


async def test_a_client_that_leaves_a_battle_frees_both_engines_at_once(
    arena: Daemon, client: aiohttp.ClientSession
) -> None:
    pair = [LLAMA, QWEN]
    body = {"messages": PROMPT, "models": pair, "max_tokens": ENDLESS, "min_tokens": ENDLESS}
    async with client.post("/v1/arena/battles", json=body) as response:
        async for kind, data in events(response):
            if kind == "battle":
                battle = data["id"]
            if kind == "delta":
                break
        async with asyncio.timeout(5):  # vLLM updates its count with the next step
            for name in pair:
                while await running_in_vllm(arena, name) != 1:
                    pass
        response.close()
    await arena.until(lambda: all(arena.model(name)["running"] == 0 for name in pair), "the leases to be given back", 5)
    async with asyncio.timeout(5):
        for name in pair:
            while await running_in_vllm(arena, name):
                pass
    async with client.get(f"/v1/arena/battles/{battle}") as response:
        assert not (await response.json())["votable"]


async def test_compare_of_three_with_room_for_two_runs_one_after_the_other(client: aiohttp.ClientSession) -> None:
    body = {"messages": PROMPT, "models": [LLAMA, MISTRAL, QWEN], "max_tokens": 20, "temperature": 0}
    async with client.post("/v1/arena/compare", json=body) as response:
        got = [event async for event in events(response)]
    start = got[0][1]
    assert start["co_residency"] == "one_after_another"
    done = [data for kind, data in got if kind == "done"]
    assert [data["side"] for data in done] == start["order"]
    assert all(data["usage"]["completion_tokens"] > 0 and data["ttft_s"] > 0 for data in done)


async def test_a_vote_that_was_acknowledged_survives_the_daemons_sigkill(
    arena: Daemon, client: aiohttp.ClientSession
) -> None:
    battle, _ = await fought(client)
    await vote(client, battle, "a")
    async with client.get("/v1/arena/leaderboard") as response:
        votes = (await response.json())["votes"]
    assert arena.process is not None
    arena.note_processes()
    os.kill(arena.process.pid, signal.SIGKILL)
    arena.process.wait()
    await arena.until(lambda: not arena.left(), "its processes to end", 10)
    await asyncio.to_thread(arena.start)
    async with client.get("/v1/arena/leaderboard") as response:
        assert (await response.json())["votes"] == votes
