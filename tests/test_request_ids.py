"""X-Request-ID: from the client or made, on every answer, at the engine, and in the log lines of its request."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from arena_server.api.answer import Answer
from arena_server.request_id import RequestIdFilter, origin
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import until
from tests.support.raw_client import connected, once, post
from tests.support.replies import Reply

ASK: dict[str, Any] = {"model": "alpha", "prompt": "one two three", "max_tokens": 3}
COMPARE = {"models": ["alpha", "beta"], "messages": [{"role": "user", "content": "one two"}]}
MADE = re.compile(r"[0-9a-f]{32}")


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with running_daemon(server={"max_body_bytes": 1000}) as running:
        yield running


@pytest.fixture
def lines() -> Iterator[list[tuple[str, str]]]:
    """What is logged, as `(request id, message)`."""
    kept: list[tuple[str, str]] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append((vars(record)["request_id"], record.getMessage()))

    handler = Keeps()
    handler.addFilter(RequestIdFilter())
    logger = logging.getLogger("arena_server")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield kept
    logger.removeHandler(handler)
    logger.setLevel(level)


ANY_WAY = [
    ("GET", "/health", None),
    ("HEAD", "/", None),
    ("GET", "/", None),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/nobody", None),
    ("GET", "/nothing-here", None),
    ("DELETE", "/health", None),
    ("GET", "/admin/pool", None),
    ("POST", "/admin/models/nobody/load", None),
    ("POST", "/v1/completions", ASK),
    ("POST", "/v1/completions", {**ASK, "stream": True}),
    ("POST", "/v1/completions", {**ASK, "model": "nobody"}),
    ("POST", "/v1/completions", {**ASK, "prompt": "x" * 1000}),
    ("POST", "/v1/arena/compare", COMPARE),
    ("POST", "/v1/arena/compare", {**COMPARE, "stream": False}),
    ("POST", "/v1/arena/battles", COMPARE),
    ("POST", "/v1/arena/battles", {}),
    ("GET", "/v1/arena/battles/none", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ANY_WAY)
async def test_every_answer_has_the_clients_own(daemon: FakeDaemon, method: str, path: str, body: Any) -> None:
    headers = [("X-Request-ID", "my-id.1/2:3")]
    async with connected(daemon.port) as client:
        if body is None:
            client.request(method, path, headers=headers)
        else:
            client.post(path, body, headers)
        answer = await client.answer(method)
    assert [v for n, v in answer.headers if n == "x-request-id"] == ["my-id.1/2:3"]


async def test_the_stream_of_events_has_it_too(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        client.request("GET", "/admin/events", headers=[("X-Request-ID", "r-1")])
        assert dict((await client.head())[1])["x-request-id"] == "r-1"


async def test_a_defects_answer_has_it_too(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Answer, "start", fails)
    answer = await post(daemon.port, "/v1/completions", ASK, [("X-Request-ID", "r-1")])
    assert answer.status == 500
    assert answer.header("x-request-id") == "r-1"


async def test_without_one_each_gets_another(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        ids = set()
        for _ in range(3):
            client.request("GET", "/health")
            ids.add((await client.answer()).header("x-request-id"))
    assert len(ids) == 3
    assert all(MADE.fullmatch(found or "") for found in ids)


@pytest.mark.parametrize("bad", ["", "two words", "x" * 129, "caf\u00e9", "tab\there"])
async def test_one_that_is_not_sane_is_replaced(daemon: FakeDaemon, bad: str) -> None:
    answer = await post(daemon.port, "/v1/completions", ASK, [("X-Request-ID", bad)])
    found = answer.header("x-request-id") or ""
    assert MADE.fullmatch(found)
    assert daemon.engines["alpha"].inference[-1].header("x-request-id") == found


async def test_the_longest_that_is_kept(daemon: FakeDaemon) -> None:
    longest = "~" * 128
    assert (await once(daemon.port, "GET", "/health", headers=[("X-Request-ID", longest)])).header(
        "x-request-id"
    ) == longest


async def test_the_engine_gets_it_once_and_its_own_answer_does_not_change_it(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    usual = alpha.reply
    alpha.reply = lambda _: Reply([b"{}"], headers=[("X-Request-Id", "the engine's")], length=2)
    answer = await post(daemon.port, "/v1/completions", ASK, [("x-request-id", "r-1"), ("X-Request-ID", "r-2")])
    alpha.reply = usual
    assert [v for n, v in alpha.inference[-1].headers if n == "x-request-id"] == ["r-2"]
    assert [v for n, v in answer.headers if n == "x-request-id"] == ["r-2"]


async def test_a_trace_goes_on_to_the_engine_as_it_came(daemon: FakeDaemon) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = [("traceparent", parent), ("tracestate", "a=1")]
    await post(daemon.port, "/v1/completions", ASK, headers)
    await post(daemon.port, "/v1/arena/compare", COMPARE, headers)
    one, side = daemon.engines["alpha"].inference[-2:]
    assert (one.header("traceparent"), one.header("tracestate")) == (parent, "a=1")
    assert side.header("traceparent") == parent


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
async def test_openais_client_shows_it(daemon: FakeDaemon, status: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        if status == "200 OK":
            completion = await client.completions.create(**ASK)
            assert completion._request_id == daemon.engines["alpha"].inference[-1].header("x-request-id")
            return
        with pytest.raises(openai.NotFoundError) as raised:
            await client.completions.create(**{**ASK, "model": "nobody"}, extra_headers={"X-Request-ID": "r-1"})
        assert raised.value.request_id == "r-1"


async def test_log_lines_of_a_request_have_its_id_and_an_engines_have_none(lines: list[tuple[str, str]]) -> None:
    async with running_daemon() as daemon:
        alpha = daemon.engines["alpha"]
        alpha.chunks.hold()
        async with connected(daemon.port) as client:
            client.post("/v1/completions", ASK, [("X-Request-ID", "r-1")])
            await alpha.request()
            await alpha.die()
            assert (await client.answer()).status == 502
        await until(lambda: not alpha.remains, "the remains to be gone")
    assert "r-1" in [found for found, text in lines if "ended while it answered" in text]
    # Its load was caused by the request; what became of it later is everybody's.
    assert {found for found, text in lines if "died" in text or "awake after" in text} == {""}


async def test_sides_of_a_battle_are_in_the_log_by_their_request(lines: list[tuple[str, str]]) -> None:
    async with running_daemon() as daemon:
        daemon.engines["alpha"].reply = lambda _: Reply([b"{}"], "400 Bad Request", length=2)
        await post(daemon.port, "/v1/arena/battles", COMPARE, [("X-Request-ID", "r-1")])
    assert [found for found, text in lines if "side" in text] == ["r-1"]


async def test_outside_of_requests_there_is_a_new_one_each_time() -> None:
    assert origin().request_id != origin().request_id
