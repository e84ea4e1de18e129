"""Three real models behind one port, with room for two."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.vllm.daemon import ENDLESS, Daemon, model_config
from tests.vllm.engines import running_in_vllm

LLAMA, MISTRAL, QWEN = "tiny-llama", "tiny-mistral", "tiny-qwen"


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(daemon.url, timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session


async def post(client: aiohttp.ClientSession, path: str, **body: Any) -> tuple[int, Any]:
    async with client.post(path, json=body) as response:
        return response.status, await response.json()


async def greedy(client: aiohttp.ClientSession, model: str) -> str:
    options = {"prompt": "Tell me", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    status, answer = await post(client, "/v1/completions", model=model, **options)
    assert status == 200, answer
    text: str = answer["choices"][0]["text"]
    return text


class Stream:
    """A streamed completion in the background; `begun` is set by its first token, `halfway` in its middle."""

    def __init__(self, client: aiohttp.ClientSession, model: str, tokens: int) -> None:
        self.begun = asyncio.Event()
        self.halfway = asyncio.Event()
        self.times: list[float] = []
        self.usage: dict[str, int] | None = None
        self.errors: list[dict[str, Any]] = []
        self.task = asyncio.create_task(self._run(client, model, tokens))

    async def _run(self, client: aiohttp.ClientSession, model: str, tokens: int) -> None:
        try:
            await self._read(client, model, tokens)
        finally:
            self.halfway.set()  # several tokens may have come in one event

    async def _read(self, client: aiohttp.ClientSession, model: str, tokens: int) -> None:
        body = {
            "model": model, "prompt": "Tell me", "max_tokens": tokens, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        async with client.post("/v1/completions", json=body) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                field, _, text = line.decode().strip().partition(": ")
                if field != "data" or text == "[DONE]":
                    continue  # comments tell what a request waits for
                event = json.loads(text)
                if "error" in event:
                    self.errors.append(event["error"])
                    continue
                self.usage = event.get("usage") or self.usage
                self.times.append(time.monotonic())
                self.begun.set()
                if len(self.times) >= tokens // 2:
                    self.halfway.set()


async def test_two_models_answer_at_the_same_time(daemon: Daemon, client: aiohttp.ClientSession) -> None:
    await asyncio.gather(greedy(client, LLAMA), greedy(client, MISTRAL))
    assert set(daemon.health()["loaded_models"]) == {LLAMA, MISTRAL}
    a, b = Stream(client, LLAMA, 800), Stream(client, MISTRAL, 800)
    await asyncio.gather(a.task, b.task)
    assert a.usage is not None
    assert b.usage is not None
    assert (a.usage["completion_tokens"], b.usage["completion_tokens"]) == (800, 800)
    assert a.times[0] < b.times[-1]
    assert b.times[0] < a.times[-1]


async def test_the_third_evicts_the_least_recently_used_and_answers_stay_the_same(
    daemon: Daemon, client: aiohttp.ClientSession
) -> None:
    first = {LLAMA: await greedy(client, LLAMA), MISTRAL: await greedy(client, MISTRAL)}
    first[QWEN] = await greedy(client, QWEN)
    assert set(daemon.health()["loaded_models"]) == {MISTRAL, QWEN}
    for name in (LLAMA, MISTRAL, QWEN):
        assert await greedy(client, name) == first[name], f"{name} answers otherwise after it came back"
    assert daemon.model(LLAMA)["last_load_s"] > 0


async def test_a_busy_model_is_not_evicted(daemon: Daemon, client: aiohttp.ClientSession) -> None:
    await greedy(client, MISTRAL)
    await greedy(client, LLAMA)
    core = daemon.core_of(MISTRAL).pid
    busy = Stream(client, MISTRAL, ENDLESS)
    await busy.begun.wait()
    # MISTRAL was used before LLAMA: it would be the one to go.
    await greedy(client, LLAMA)
    await greedy(client, QWEN)
    assert set(daemon.health()["loaded_models"]) == {MISTRAL, QWEN}
    assert daemon.core_of(MISTRAL).pid == core
    # That such streams come to their ends the tests of the swaps show; this one has more to say than anybody waits for.
    events = len(busy.times)
    await daemon.until(lambda: len(busy.times) > events, "the stream to go on")
    assert not busy.task.done()
    assert not busy.errors
    busy.task.cancel()


async def test_requests_that_wait_for_one_load_all_go_when_it_is_up(
    daemon: Daemon, client: aiohttp.ClientSession
) -> None:
    await greedy(client, LLAMA)
    await greedy(client, MISTRAL)
    before = daemon.loads(QWEN)
    answers = await asyncio.gather(*(greedy(client, QWEN) for _ in range(8)))
    assert len(set(answers)) == 1
    assert daemon.loads(QWEN) == before + 1


async def test_a_client_that_leaves_aborts_its_request_in_vllm(daemon: Daemon, client: aiohttp.ClientSession) -> None:
    stream = Stream(client, LLAMA, ENDLESS)
    await stream.begun.wait()
    async with asyncio.timeout(5):  # vLLM updates its count with the next step
        while await running_in_vllm(daemon, LLAMA) != 1:
            pass
    assert daemon.model(LLAMA)["running"] == 1
    stream.task.cancel()
    async with asyncio.timeout(5):
        while await running_in_vllm(daemon, LLAMA):
            pass
    await daemon.until(lambda: daemon.model(LLAMA)["running"] == 0, "the lease to end")


async def test_every_text_route_reaches_the_engine_and_no_other_does(
    daemon: Daemon, client: aiohttp.ClientSession
) -> None:
    chat = [{"role": "user", "content": "Hello"}]
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/chat/completions", {"messages": chat, "max_tokens": 4}, "choices"),
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 4}, "choices"),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 16}, "output"),
        ("/v1/messages", {"messages": chat, "max_tokens": 4}, "content"),
        ("/v1/messages/count_tokens", {"messages": chat}, "input_tokens"),
        ("/tokenize", {"prompt": "Hello"}, "tokens"),
        ("/detokenize", {"tokens": [5, 6]}, "prompt"),
    ]
    for path, body, key in cases:
        status, answer = await post(client, path, model="gpt-4o", **body)
        assert status == 200, (path, answer)
        assert key in answer, (path, answer)
    # A text model has none of these: what the engine itself says comes through.
    for path in ("/v1/embeddings", "/pooling", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"):
        status, answer = await post(client, path, model=LLAMA, input="Hello")
        assert 400 <= status < 500, (path, status, answer)
        assert "Not Found: POST" not in str(answer), f"{path} did not reach the engine"
    for path in (
        "/sleep",
        "/wake_up",
        "/collective_rpc",
        "/v1/load_lora_adapter",
        "/start_profile",
        "/scale_elastic_ep",
    ):
        status, answer = await post(client, path, model=LLAMA)
        assert status == 404
        assert answer["error"]["message"] == f"Not Found: POST {path}"


async def test_vllms_own_errors_come_through_unchanged(daemon: Daemon, client: aiohttp.ClientSession) -> None:
    body: dict[str, Any] = {"model": LLAMA, "prompt": "x", "max_tokens": -1}
    status, through = await post(client, "/v1/completions", **body)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(daemon.socket_of(LLAMA)))) as engine:
        direct_status, direct = await post(engine, "http://engine/v1/completions", **body)
    assert (status, through) == (direct_status, direct)
    assert status == 400


async def test_a_missing_model_folder_says_so_and_leaves_the_pool_as_it_was(daemon: Daemon, directory: Path) -> None:
    empty = directory / "empty"
    empty.mkdir()
    models = {"missing": model_config(directory / "not-there"), "empty": model_config(empty)}
    with daemon.lent(models) as other:
        async with aiohttp.ClientSession(other.url) as session:
            status, answer = await post(session, "/v1/completions", model="missing", prompt="x")
            assert status == 503
            assert answer["error"]["code"] == "model_unavailable"
            assert answer["error"]["message"] == f"the model folder {directory / 'not-there'} does not exist"
            status, answer = await post(session, "/v1/completions", model="empty", prompt="x")
            assert status == 503
            assert str(empty) in answer["error"]["message"], answer
            assert other.known("empty")["error"] == answer["error"]["message"]
        # Who waits hears of a failure at once, before the engine's processes are gone.
        await other.until(lambda: all(m["residency"] == "cold" for m in other.health()["models"].values()), "all cold")
        assert other.health()["devices"][0]["reserved_bytes"] == 0
