"""What real engines say, and leave on the disk, when they are asked secrets: nothing of them, at the level `debug`.

At vLLM's own DEBUG (VLLM_LOGGING_LEVEL in a model's `env`) it logs some requests as they came, as
docs/configuration.md says.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from arena_server.demo.models import DemoModel
from tests.vllm.daemon import ENDLESS, Daemon, model_config

LLAMA = "tiny-llama"
PROMPT = "marmalade7731"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": f"Say {PROMPT} please"}]


@pytest.fixture
def daemon(models: dict[str, DemoModel], directory: Path) -> Iterator[Daemon]:
    """All that its engine may write to lies in `directory`."""
    places = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "home/.cache", "XDG_CONFIG_HOME": "home/.config"}
    for place in places.values():
        (directory / place).mkdir(parents=True, exist_ok=True)
    env = {name: str(directory / place) for name, place in places.items()}
    with Daemon(directory, {LLAMA: model_config(models[LLAMA].path)}, env=env, log_level="debug") as running:
        yield running


def ask(**more: Any) -> dict[str, Any]:
    return {"model": LLAMA, "messages": MESSAGES, "prompt": PROMPT, "input": PROMPT, "max_tokens": 30, **more}


# What vLLM refuses, or may.
REFUSED = [
    (CHAT, ask(messages=PROMPT)),
    (CHAT, ask(messages=[{"role": PROMPT, "content": {"x": PROMPT}}])),
    (CHAT, ask(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PROMPT}}]}])),
    (CHAT, ask(messages=[{"role": "user", "content": f"{PROMPT} " * 20_000}])),
    (CHAT, ask(temperature=PROMPT)),
    (CHAT, ask(tools=[{"type": "function", "function": {"name": PROMPT, "parameters": PROMPT}}])),
    (CHAT, ask(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": PROMPT}}})),
    (CHAT, ask(structured_outputs={"regex": f"({PROMPT}"})),
    (CHAT, ask(chat_template="{{ raise_exception('" + PROMPT + "') }}")),
    ("/v1/completions", ask(logit_bias={PROMPT: 1})),
    ("/v1/embeddings", ask()),
    ("/v1/score", ask(text_1=PROMPT, text_2=PROMPT)),
]


async def test_engines_tell_nobody_what_they_are_asked(daemon: Daemon, directory: Path) -> None:
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(daemon.url, timeout=timeout) as client:
        said = await whole(client)
        for path, body in REFUSED:
            async with client.post(path, json=body) as response:
                await response.read()
        # One that leaves, and one whose engine is aborted: then vLLM may dump what it was doing.
        async with client.post(CHAT, json=ask(stream=True, max_tokens=ENDLESS, ignore_eos=True)) as response:
            await response.content.readline()
        stream = ask(stream=True, max_tokens=ENDLESS, ignore_eos=True)
        async with client.post(CHAT, json=stream) as response:
            await response.content.readline()
            daemon.core_of(LLAMA).send_signal(signal.SIGABRT)
            assert b"engine_died" in await response.read()
        looks = [await asyncio.to_thread(daemon.get, path) for path in ("/health", "/admin/pool", "/admin/decisions")]
    await daemon.until(lambda: daemon.model(LLAMA)["residency"] == "cold", "the engine's remains to be gone")
    log = daemon.log.read_text()
    assert "Loading" in log
    assert "DEBUG" in log
    assert len(said) > 30
    for secret in (PROMPT, said):
        assert [line[:300] for line in log.splitlines() if secret in line] == []
        assert secret not in json.dumps(looks, ensure_ascii=False)
        assert [str(path) for path in files(directory) if secret.encode() in path.read_bytes()] == []


async def whole(client: aiohttp.ClientSession) -> str:
    """Have it answer by each route that gives one; what it said first."""
    asks: dict[str, dict[str, Any]] = {
        CHAT: {"messages": MESSAGES, "max_tokens": 30, "temperature": 0, "ignore_eos": True},
        "/v1/completions": {"prompt": PROMPT, "max_tokens": 30, "stop": [PROMPT]},
        "/v1/responses": {"input": PROMPT, "instructions": PROMPT, "max_output_tokens": 30},
        "/v1/messages": {"messages": MESSAGES, "max_tokens": 30, "system": PROMPT},
        "/tokenize": {"prompt": PROMPT},
    }
    answers = []
    for path, body in asks.items():
        async with client.post(path, json={"model": LLAMA, **body}) as response:
            assert response.status == 200, await response.text()
            answers.append(await response.json())
    said: str = answers[0]["choices"][0]["message"]["content"]
    return said


def files(directory: Path) -> list[Path]:
    """All that are there, but sockets."""
    found = [path for path in directory.rglob("*") if path.is_file()]
    assert any(path.name == "measurements.sqlite" for path in found)
    return found
