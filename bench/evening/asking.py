"""A battle as its client sees it: both sides asked at once, and when the first text of each came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.evening.trace import Battle


@dataclass(frozen=True, slots=True)
class Answered:
    """Seconds from asking until the first text of each side, in the order they came, and until both were complete."""

    firsts_s: tuple[float, ...]
    whole_s: float

    @property
    def wait_s(self) -> float:
        """Until both sides had begun."""
        return self.firsts_s[-1]

    @property
    def apart_s(self) -> float:
        """How long the one had begun before the other."""
        return self.firsts_s[-1] - self.firsts_s[0]


class Refused(Exception):
    """No answer, or not from both."""


async def whole(asked: AsyncIterator[str], sides: int) -> Answered:
    """Take an answer to its end; `asked` gives the name of a side for each text of it. Raises Refused."""
    began = time.perf_counter()
    firsts: dict[str, float] = {}
    async for side in asked:
        firsts.setdefault(side, time.perf_counter() - began)
    if len(firsts) < sides:
        raise Refused(f"{sides - len(firsts)} of {sides} sides said nothing")
    return Answered(tuple(sorted(firsts.values())), time.perf_counter() - began)


def chat_fields(battle: Battle) -> dict[str, Any]:
    """What both sides are asked: greedily, for so many tokens, no fewer."""
    message = {"role": "user", "content": battle.prompt}
    return {"messages": [message], "max_tokens": battle.tokens, "min_tokens": battle.tokens, "temperature": 0.0}


async def compare(client: aiohttp.ClientSession, battle: Battle) -> Answered:
    """As the arena's page asks the daemon: for both models in one request, which is given both or none."""
    body = {**chat_fields(battle), "models": battle.models, "co_residency": "require"}

    async def texts() -> AsyncIterator[str]:
        async for data in _events(client, "/v1/arena/compare", body):
            if "error" in data:
                raise Refused(str(data["error"]))
            if data.get("text"):
                yield data["side"]

    return await whole(texts(), 2)


async def chats(client: aiohttp.ClientSession, battle: Battle) -> Answered:
    """As a page asks a daemon that knows no pairs: for each model in a request of its own, at the same time."""
    sides = await asyncio.gather(*(chat(client, model, chat_fields(battle)) for model in battle.models))
    return _together(sides)


def _together(sides: Sequence[Answered]) -> Answered:
    return Answered(tuple(sorted(side.wait_s for side in sides)), max(side.whole_s for side in sides))


async def chat(client: aiohttp.ClientSession, model: str, fields: dict[str, Any]) -> Answered:
    """One streamed chat answer."""

    async def texts() -> AsyncIterator[str]:
        async for data in _events(client, "/v1/chat/completions", {**fields, "model": model, "stream": True}):
            if "error" in data:
                raise Refused(str(data["error"]))
            if data["choices"] and data["choices"][0]["delta"].get("content"):
                yield model

    return await whole(texts(), 1)


async def _events(client: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The data of each event of an answer. Raises Refused."""
    try:
        async with client.post(path, json=body) as response:
            if response.status != 200:
                raise Refused(f"{response.status}: {await response.text()}")
            async for line in response.content:
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])
    except aiohttp.ClientError as e:
        raise Refused(f"the connection was lost: {e}") from e
