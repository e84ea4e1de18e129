"""A model on a second real server: asked like any other, killed in the middle, answered for, and back by itself.

The tests go on from each other. Both servers are daemons of this project, over real vLLM.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from arena_server.demo.models import DemoModel
from tests.vllm.daemon import ENDLESS, Daemon, model_config
from tests.vllm.test_serving import LLAMA, Stream, post

FAR, STAND_BY = "far", "stand-by"
SERVED_BY = "x-arena-served-by"
GREEDY = {"prompt": "Tell me", "max_tokens": 24, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def there(models: dict[str, DemoModel]) -> Iterator[Daemon]:
    """The server that is killed."""
    with tempfile.TemporaryDirectory(prefix="arena-") as path:
        configured = {LLAMA: model_config(models[LLAMA].path, preload=True)}
        with Daemon(Path(path), configured) as running:
            yield running


@pytest.fixture(scope="module")
def here(directory: Path, there: Daemon, daemon: Daemon) -> Iterator[Daemon]:
    """A daemon without any engine of its own: its stand-by is on a third server."""
    far = {"model": LLAMA, "backend_url": f"{there.url}/v1", "fallback": [STAND_BY]}
    stand_by = {"model": LLAMA, "backend_url": f"{daemon.url}/v1"}
    with Daemon(directory, {FAR: far, STAND_BY: stand_by}) as running:
        running.wait_until(lambda: len(running.health()["loaded_models"]) == 2, "both servers to be found")
        assert running.processes() == [], "no vLLM is needed here"
        yield running


@pytest.fixture
async def client(here: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(here.url, timeout=aiohttp.ClientTimeout(total=150)) as session:
        yield session


async def served(client: aiohttp.ClientSession) -> tuple[str | None, str]:
    """Who answers a request for the far model, and what."""
    async with client.post("/v1/completions", json={"model": FAR, **GREEDY}) as response:
        assert response.status == 200, await response.text()
        return response.headers.get(SERVED_BY), (await response.json())["choices"][0]["text"]


async def test_it_answers_as_it_does_to_who_asks_it_itself(
    here: Daemon, there: Daemon, client: aiohttp.ClientSession
) -> None:
    async with aiohttp.ClientSession(there.url) as direct:
        _, itself = await post(direct, "/v1/completions", model=LLAMA, **GREEDY)
    assert await served(client) == (FAR, itself["choices"][0]["text"])


async def test_openais_client_chats_and_streams(here: Daemon) -> None:
    messages: Any = [{"role": "user", "content": "Tell me"}]
    async with openai.AsyncOpenAI(base_url=f"{here.url}/v1", api_key="-") as asker:
        options: Any = {"model": FAR, "messages": messages, "max_tokens": 16, "temperature": 0}
        whole = await asker.chat.completions.create(**options)
        pieces = await asker.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in pieces]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


async def test_what_it_cannot_do_it_refuses_itself(here: Daemon, there: Daemon, client: aiohttp.ClientSession) -> None:
    async with aiohttp.ClientSession(there.url) as direct:
        refused = await post(direct, "/v1/embeddings", model=LLAMA, input="a")
    assert 400 <= refused[0] < 500
    assert await post(client, "/v1/embeddings", model=FAR, input="a") == refused


async def test_its_end_in_the_middle_is_an_error_and_no_second_answer(
    here: Daemon, there: Daemon, client: aiohttp.ClientSession
) -> None:
    stream = Stream(client, FAR, ENDLESS)
    await stream.begun.wait()
    there.kill()
    await stream.task
    assert [error["code"] for error in stream.errors] == ["engine_died"]
    assert stream.usage is None
    assert here.known(STAND_BY)["running"] == 0
    # That it was found at the start is counted, and nothing else.
    assert here.known(STAND_BY)["requests_total"] == 1


async def test_the_other_answers_while_it_is_down(here: Daemon, client: aiohttp.ClientSession) -> None:
    assert (await served(client))[0] == STAND_BY
    await here.until(lambda: here.model(FAR)["residency"] == "failed", "it to be given up for a while")
    assert "cannot be reached: connection refused" in here.known(FAR)["error"]
    assert (await served(client))[0] == STAND_BY


async def test_it_is_back_by_itself(
    here: Daemon, there: Daemon, client: aiohttp.ClientSession, models: dict[str, DemoModel]
) -> None:
    there.configure({LLAMA: model_config(models[LLAMA].path)})
    there.start()
    await here.until(lambda: here.model(FAR)["residency"] == "awake", "it to be found again")
    assert here.model(FAR)["error"] is None
    asking = asyncio.create_task(served(client))
    # For its engine's import of vLLM nobody need wait once more.
    await there.until(lambda: there.model(LLAMA)["waiting"] == 1, "the request to be there")
    asking.cancel()
    await there.until(lambda: there.model(LLAMA)["waiting"] == 0, "it to be ended there, too")
