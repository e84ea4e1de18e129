"""Usage as the admin sees it: over HTTP, of a daemon with fake engines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from arena_server.store.usage_record import By, Span
from arena_server.usage.ledger import Ledger
from tests.support.daemon_app import MODELS, FakeDaemon, running_daemon
from tests.support.raw_client import connected, once, post

ALPHA = {**MODELS["alpha"], "input_cost": 1, "output_cost": 10}
ASK = {"model": "alpha", "prompt": "one two three", "max_tokens": 5}


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with running_daemon({**MODELS, "alpha": ALPHA}) as running:
        yield running


async def ask_usage(daemon: FakeDaemon, query: str = "") -> tuple[int, Any]:
    answer = await once(daemon.port, "GET", f"/admin/usage{query}")
    return answer.status, json.loads(answer.body)


async def rows(daemon: FakeDaemon, query: str = "") -> list[dict[str, Any]]:
    status, found = await ask_usage(daemon, query)
    assert status == 200, found
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found["rows"]]


def counted(requests: int, prompt: int, completion: int, cost: str) -> dict[str, Any]:
    return {
        "requests": requests,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "cost": cost,
    }


async def test_what_was_used_until_now(daemon: FakeDaemon) -> None:
    for more in ({}, {"stream": True}):
        assert (await post(daemon.port, "/v1/completions", {**ASK, **more})).status == 200
    assert (await post(daemon.port, "/v1/completions", {**ASK, "model": "beta"})).status == 200
    assert (await post(daemon.port, "/v1/completions", {**ASK, "model": "nobody"})).status == 404
    assert await rows(daemon, "?by=model") == [
        {"model": "alpha", **counted(2, 6, 10, "0.000106")},
        {"model": "beta", **counted(1, 3, 5, "0.00")},
    ]
    anybody = {"key": "anonymous", "name": "(without a key)"}
    assert await rows(daemon) == [{**anybody, **counted(3, 9, 15, "0.000106")}]
    assert await rows(daemon, "?by=key&model=beta") == [{**anybody, **counted(1, 3, 5, "0.00")}]
    today = datetime.now(UTC).date()
    assert await rows(daemon, f"?by=day&since={today - timedelta(days=1)}&until={today}") == [
        {"day": str(today), **counted(3, 9, 15, "0.000106")}
    ]
    _, none = await ask_usage(daemon, f"?until={today - timedelta(days=2)}")
    assert (none["rows"], none["until"]) == ([], str(today - timedelta(days=2)))
    assert none["total"] == {**counted(0, 0, 0, "0.00"), "seconds": 0}


async def test_a_stream_counts_while_it_comes_and_when_it_is_left(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    message = {"role": "user", "content": "a b"}
    async with connected(daemon.port) as client:
        client.post("/v1/chat/completions", {"model": "alpha", "stream": True, "max_tokens": 9, "messages": [message]})
        for number in range(5):
            if number == 4:
                assert await rows(daemon, "?by=model") == [{"model": "alpha", **counted(1, 3, 4, "0.000043")}]
            alpha.chunks.release(1)
            if number == 0:
                await client.head()
            assert b"usage" not in await client.chunk()
        client.leave()
        await daemon.idle("alpha")
    assert await rows(daemon, "?by=model") == [{"model": "alpha", **counted(1, 3, 5, "0.000053")}]


async def test_both_sides_of_a_comparison(daemon: FakeDaemon) -> None:
    body = {"models": ["alpha", "beta"], "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
    assert (await post(daemon.port, "/v1/arena/compare", body)).status == 200
    assert await rows(daemon, "?by=model") == [
        {"model": "alpha", **counted(1, 3, 2, "0.000023")},
        {"model": "beta", **counted(1, 3, 2, "0.00")},
    ]


async def test_the_rest_is_written_at_the_end(tmp_path: Path) -> None:
    """The request has begun before the end and is answered in the grace."""
    url = sqlite_url(tmp_path / "used.sqlite")
    async with running_daemon({"alpha": ALPHA}, arena={"database": url}) as running:
        assert (await post(running.port, "/v1/completions", ASK)).status == 200
    store = Store(url)
    assert [each.used.completion_tokens for each in await Ledger(store).sums(By.KEY, Span())] == [5]
    await store.close()


@pytest.mark.parametrize(
    "query",
    ["?by=hour", "?since=yesterday", "?until=2026-13-01", "?key_id=nobody", "?until=2026-11-01&since=2026-11-02"],
)
async def test_what_cannot_be_asked_is_refused(daemon: FakeDaemon, query: str) -> None:
    status, found = await ask_usage(daemon, query)
    assert status == 400
    assert query[1:].partition("=")[0] in found["error"]["message"]


async def test_a_database_that_is_gone_is_said(daemon: FakeDaemon) -> None:
    await daemon.votes.close()
    status, found = await ask_usage(daemon)
    assert (status, found["error"]["code"]) == (503, "store_unavailable")
