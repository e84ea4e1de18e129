"""Usage against real vLLM: its streams go on byte for byte, and our sums are its own counters'."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from arena_server.demo.models import DemoModel
from tests.vllm.daemon import Daemon, model_config
from tests.vllm.test_serving import LLAMA, QWEN

KEYS = {"alice": "sk-arena-alice", "bob": "sk-arena-bob"}
ADMIN = "sk-arena-admin"
PRICES = {LLAMA: ("0.15", "0.6"), QWEN: ("1.1", "4.4")}
REQUESTS = 1000
AT_ONCE = 24
KILLED = 6
# Tokens that vLLM may make between what a client that leaves has seen and the abort: it goes on until it hears of it.
OVERRUN = 100


@pytest.fixture(scope="module")
def daemon(directory: Path, models: dict[str, DemoModel]) -> Iterator[Daemon]:
    """One with two models that cost something, and keys."""
    priced = {
        name: model_config(
            models[name].path, preload=True, sleep_level=0, input_cost=float(prompt), output_cost=float(completion)
        )
        for name, (prompt, completion) in PRICES.items()
    }
    keys: dict[str, Any] = {name: {"sha256": _hash(text)} for name, text in KEYS.items()}
    keys["boss"] = {"sha256": _hash(ADMIN), "scopes": ["admin"]}
    with Daemon(directory, priced, access={"keys": keys}, pool={"max_awake_models": 2}) as running:
        yield running


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=100)
    async with aiohttp.ClientSession(daemon.url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def usage(client: aiohttp.ClientSession, by: str) -> dict[str, dict[str, Any]]:
    async with client.get("/admin/usage", params={"by": by}, headers=bearer(ADMIN)) as response:
        assert response.status == 200, await response.text()
        return {row[by]: row for row in (await response.json())["rows"]}


@contextlib.asynccontextmanager
async def engine_of(daemon: Daemon, model: str) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(daemon.socket_of(model)))
    async with aiohttp.ClientSession("http://engine", connector=connector) as engine:
        yield engine


async def counters(daemon: Daemon, model: str) -> tuple[int, int]:
    """vLLM's own, when it has nothing to do: prompt and generated tokens in the engine's life."""
    async with engine_of(daemon, model) as engine:
        while True:
            async with engine.get("/metrics") as response:
                found: dict[str, float] = {}
                for line in (await response.text()).splitlines():
                    name, _, rest = line.partition("{")
                    if rest and not line.startswith("#"):
                        found[name] = found.get(name, 0) + float(rest.rpartition(" ")[2])
            if not found["vllm:num_requests_running"] and not found["vllm:num_requests_waiting"]:
                return int(found["vllm:prompt_tokens_total"]), int(found["vllm:generation_tokens_total"])
            await asyncio.sleep(0.05)


def plain(stream: bytes) -> list[bytes]:
    """The lines, without what is another in each answer."""
    return re.sub(rb'"id":"[^"]*"|"created":\d+', b"", stream).split(b"\n")


def forms(stream: bytes) -> set[bytes]:
    """The kinds of lines: without texts, and without how many tokens it were until then.

    Where vLLM's server does not come to write each token at once, it writes several in one event.
    """
    text = re.sub(rb'"(content|text)":"(?:[^"\\]|\\.)*"', rb'"\1":""', b"\n".join(plain(stream)))
    return set(re.sub(rb'"(completion|total)_tokens":\d+', rb'"\1_tokens":0', text).split(b"\n"))


def texts(stream: bytes) -> dict[int, str]:
    """What each choice says."""
    said: dict[int, str] = {}
    for line in stream.split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line.removeprefix(b"data: "))["choices"]:
                piece = choice["text"] if "text" in choice else choice["delta"].get("content", "")
                said[choice["index"]] = said.get(choice["index"], "") + piece
    return said


STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {}),
    ("/v1/chat/completions", {"stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
    ("/v1/chat/completions", {"stream_options": {"include_usage": False, "continuous_usage_stats": True}}),
    ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 2, "return_token_ids": True}),
    ("/v1/chat/completions", {"n": 2, "temperature": 0.5, "seed": 7}),
    ("/v1/completions", {"prompt": "Once upon"}),
    ("/v1/completions", {"prompt": "Once upon", "echo": True, "logprobs": 2}),
    ("/v1/completions", {"prompt": ["Once upon", "A time"], "stream_options": {"include_usage": True}}),
    ("/v1/completions", {"prompt": ["Once upon", "A time"], "n": 2, "temperature": 0.5, "seed": 7}),
]


@pytest.mark.parametrize(("path", "fields", "tokens"), [*((*s, 1) for s in STREAMS), *((*s, 200) for s in STREAMS[:3])])
async def test_a_stream_is_byte_for_byte_vllms_own(
    daemon: Daemon, client: aiohttp.ClientSession, path: str, fields: Mapping[str, Any], tokens: int
) -> None:
    asked = {"model": LLAMA, "stream": True, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **fields}
    if path == "/v1/chat/completions":
        asked["messages"] = [{"role": "user", "content": 'Say "usage":{} and choices:[]'}]
    await counted_from(daemon, client)
    async with client.post(path, json=asked, headers=bearer(KEYS["alice"])) as response:
        assert response.status == 200, await response.text()
        got = await response.read()
    async with engine_of(daemon, LLAMA) as engine, engine.post(path, json=asked) as response:
        own = await response.read()
    if tokens > 1:
        assert forms(got) == forms(own)
    else:
        assert sorted(plain(got)) == sorted(plain(own)), "several choices come in whatever order vLLM makes them"
    assert texts(got) == texts(own)
    assert b"system_fingerprint" in got


async def counted_from(daemon: Daemon, client: aiohttp.ClientSession) -> tuple[dict[str, tuple[int, int]], Any]:
    """Both models awake; the engines' own counters and our sums from which a test counts on."""
    for model in PRICES:
        async with client.post(f"/admin/models/{model}/load", headers=bearer(ADMIN)) as response:
            assert response.status == 202
    await daemon.until(
        lambda: all(daemon.model(model)["residency"] == "awake" for model in PRICES), "both models to be awake", 150
    )
    return {model: await counters(daemon, model) for model in PRICES}, await usage(client, "model")


@dataclass
class Asked:
    """What became of the requests, as their clients saw it."""

    whole: int = 0
    left: int = 0
    refused: int = 0
    reached: dict[str, int] = field(default_factory=dict)  # by model: those that got to its engine


def a_request(chance: random.Random, number: int) -> tuple[str, str, dict[str, Any], str]:
    """Route, kind, body, key."""
    kinds = ["chat"] * 4 + ["stream"] * 6 + ["completion", "prompts", "messages", "responses", "left", "left", "bad"]
    kind, words = chance.choice(kinds), "word " * chance.randint(1, 30)
    # What is left early is asked of one model alone, so that the other's sums are exact.
    body: dict[str, Any] = {"model": QWEN if kind == "left" else chance.choice(list(PRICES)), "temperature": 0.5}
    body |= {"max_tokens": chance.randint(1, 12)}
    message = [{"role": "user", "content": f"{number} {words}"}]
    path = "/v1/chat/completions"
    if kind in ("chat", "stream", "left", "bad"):
        body |= {"messages": message, "stream": kind in ("stream", "left")}
        if kind == "stream" and chance.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
    if kind == "left":
        body |= {"max_tokens": 1000, "ignore_eos": True}
    if kind == "bad":
        body |= {"max_tokens": -1}
    if kind in ("completion", "prompts"):
        path, body["stream"] = "/v1/completions", chance.random() < 0.5
        body["prompt"] = words if kind == "completion" else [words, f"{words} more"]
    if kind == "messages":
        path, body = "/v1/messages", body | {"messages": message, "stream": chance.random() < 0.5}
    if kind == "responses":
        path, most = "/v1/responses", body.pop("max_tokens")
        body |= {"input": words, "max_output_tokens": most, "stream": chance.random() < 0.5}
    return path, kind, body, chance.choice(list(KEYS.values()))


async def ask(client: aiohttp.ClientSession, asked: Asked, path: str, kind: str, body: Any, key: str) -> None:
    async with client.post(path, json=body, headers=bearer(key)) as response:
        asked.reached[body["model"]] = asked.reached.get(body["model"], 0) + 1
        if kind == "bad":
            assert response.status == 400
            asked.refused += 1
        elif kind == "left":
            seen = 0
            async for line in response.content:
                seen += line.startswith(b"data: ")
                if seen == 4:
                    response.close()
                    break
            asked.left += 1
        else:
            answer = await response.read()
            assert response.status == 200, answer
            assert b"error" not in answer
            asked.whole += 1


async def kill_while_streaming(daemon: Daemon, client: aiohttp.ClientSession, model: str) -> tuple[int, int]:
    """Some streams, cut by their engine's death. Returns how many tokens their clients have been told."""
    streaming = asyncio.Semaphore(0)

    async def cut(number: int) -> tuple[int, int]:
        body = {"model": model, "stream": True, "max_tokens": 20_000, "ignore_eos": True, "messages": [
            {"role": "user", "content": f"Go on {number}"}], "stream_options":
            {"include_usage": True, "continuous_usage_stats": True}}  # fmt: skip
        told, events = (0, 0), 0
        async with client.post("/v1/chat/completions", json=body, headers=bearer(KEYS["bob"])) as response:
            async for line in response.content:
                if b'"usage":{' in line:
                    found = json.loads(line.removeprefix(b"data: "))["usage"]
                    told, events = (found["prompt_tokens"], found["completion_tokens"]), events + 1
                    if events == 5:
                        streaming.release()
        return told

    cuts = [asyncio.ensure_future(cut(number)) for number in range(KILLED)]
    for _ in cuts:
        await streaming.acquire()
    daemon.core_of(model).kill()
    told = await asyncio.gather(*cuts)
    return sum(prompt for prompt, _ in told), sum(completion for _, completion in told)


def since(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> tuple[int, int, int, Decimal]:
    counts = [
        now[name] - (before[name] if before else 0) for name in ("requests", "prompt_tokens", "completion_tokens")
    ]
    return counts[0], counts[1], counts[2], Decimal(now["cost"]) - Decimal(before["cost"] if before else 0)


async def test_our_sums_are_vllms(daemon: Daemon, client: aiohttp.ClientSession) -> None:
    """After 1,000 requests: whole, refused by vLLM, left early, and cut by an engine that is killed half way."""
    chance, asked, places = random.Random(6), Asked(), asyncio.Semaphore(AT_ONCE)
    engines, before = await counted_from(daemon, client)
    vllm = dict.fromkeys(PRICES, (0, 0))

    async def settle() -> None:
        for model, (prompt, generated) in engines.items():
            now = await counters(daemon, model)
            vllm[model] = (vllm[model][0] + now[0] - prompt, vllm[model][1] + now[1] - generated)

    async def one(number: int) -> None:
        async with places:
            await ask(client, asked, *a_request(chance, number))

    half = REQUESTS // 2
    await asyncio.gather(*(one(number) for number in range(half)))
    await settle()
    cut = await kill_while_streaming(daemon, client, QWEN)
    engines, _ = await counted_from(daemon, client)
    await asyncio.gather(*(one(number) for number in range(half, REQUESTS - KILLED)))
    await settle()

    now = await usage(client, "model")
    used = {model: since(now[model], before.get(model)) for model in PRICES}
    assert asked.whole + asked.left + asked.refused + KILLED == REQUESTS
    assert min(asked.left, asked.refused) > 50
    assert used[LLAMA][:3] == (asked.reached[LLAMA], *vllm[LLAMA]), "nothing was left early: exact"
    requests, prompt, completion, _ = used[QWEN]
    assert requests == asked.reached[QWEN] + KILLED
    assert prompt == vllm[QWEN][0] + cut[0], "prompts are counted whole, also of what was left early or cut"
    missing = vllm[QWEN][1] + cut[1] - completion
    print(f"{used}; vLLM {vllm}; cut {cut}; left early {asked.left}, missing {missing} tokens")
    assert 0 <= missing <= asked.left * OVERRUN
    for model, (_, prompt, completion, cost) in used.items():
        input_cost, output_cost = map(Decimal, PRICES[model])
        assert cost == (prompt * input_cost + completion * output_cost) / 1_000_000, "exact, so to the cent"

    by_key, by_day = await usage(client, "key"), await usage(client, "day")
    for name in ("requests", "prompt_tokens", "completion_tokens"):
        total = sum(row[name] for row in now.values())
        assert sum(row[name] for row in by_key.values()) == sum(row[name] for row in by_day.values()) == total
    assert by_key.keys() == {"config:alice", "config:bob"}
