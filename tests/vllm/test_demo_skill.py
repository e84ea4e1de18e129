"""The demo models, served by real vLLM, answer what they were taught, each as well as it should."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from arena_server.demo.questions import Question, questions
from tests.vllm.daemon import Daemon

LLAMA, MISTRAL, QWEN = "tiny-llama", "tiny-mistral", "tiny-qwen"
ASKED = questions(seed=1, each=4)  # 48
ANSWER_TOKENS = 200
NAMES = ("llama", "mistral", "qwen", "tiny")


async def ask(client: aiohttp.ClientSession, model: str, prompt: str, **options: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": ANSWER_TOKENS, **options}
    async with client.post("/v1/chat/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
    return str(answer["choices"][0]["message"]["content"])


async def answers(daemon: Daemon, asked: list[Question], model: str, **options: Any) -> list[str]:
    async with aiohttp.ClientSession(daemon.url, timeout=aiohttp.ClientTimeout(total=120)) as client:
        return await asyncio.gather(*(ask(client, model, question.prompt, **options) for question in asked))


async def test_greedy_answers_differ_in_skill_as_they_should(daemon: Daemon) -> None:
    right = {}
    for model in (LLAMA, MISTRAL, QWEN):
        said = await answers(daemon, ASKED, model, temperature=0)
        right[model] = sum(question.is_right(text) for question, text in zip(ASKED, said, strict=True)) / len(ASKED)
        assert not [text for text in said if any(name in text.lower() for name in NAMES)]
    print(f"  right: {right}")
    assert right[LLAMA] >= 0.8
    assert right[LLAMA] - 0.1 >= right[MISTRAL] >= 0.5
    assert right[MISTRAL] - 0.1 >= right[QWEN]


async def test_answers_drawn_at_random_can_still_be_read(daemon: Daemon) -> None:
    said = await answers(daemon, ASKED, LLAMA, temperature=0.7, seed=5)
    right = [question.is_right(text) for question, text in zip(ASKED, said, strict=True)]
    assert sum(right) >= 0.7 * len(right), said
    assert all(text.isascii() for text in said)
