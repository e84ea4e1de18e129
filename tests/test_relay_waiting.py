"""Notices in a stream that has not begun: who asked for events is told what it waits for; nobody else is."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from arena_server.api import relay
from arena_server.pool.residency import Residency
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import turns, until
from tests.support.leases import use, waits
from tests.support.logs import logged
from tests.support.raw_client import RawClient, connected
from tests.support.replies import DONE, Reply, reply_to, stream, whole

NOTICE_S = 0.05
NOTICE = re.compile(rb": ([^\n]+), place (\d+) in the queue, about (\d+) s\n\n")
CHAT = "/v1/chat/completions"
STREAMS = (CHAT, "/v1/completions", "/v1/responses", "/v1/messages")
ROUTES = pytest.mark.parametrize("path", STREAMS)


def ask(model: str = "alpha", **more: Any) -> dict[str, Any]:
    """What every route takes."""
    words = "one two three"
    messages = [{"role": "user", "content": words}]
    return {"model": model, "messages": messages, "prompt": words, "input": words, "stream": True, **more}


@pytest.fixture
async def daemon(caplog: pytest.LogCaptureFixture) -> AsyncIterator[FakeDaemon]:
    """Checks that nobody keeps a lease or a place, and that nothing was logged as a defect."""
    async with running_daemon(pool={"wait_notice_s": NOTICE_S}) as running:
        running.engines["alpha"].load_gate.hold()
        yield running
        await running.come_to_rest()
    assert [r.getMessage() for r in logged(caplog) if r.exc_info] == []


async def noticed(client: RawClient) -> bytes:
    """The first notice, and that it came in an answer that is a stream of events."""
    status, headers = await client.head()
    assert status == 200
    assert dict(headers)["content-type"] == "text/event-stream; charset=utf-8"
    return await client.chunk()


async def rest(client: RawClient) -> bytes:
    """What comes after the first notices, but for more of these."""
    body = bytearray()
    while chunk := await client.chunk():
        body += chunk
    return NOTICE.sub(b"", bytes(body))


def events(body: bytes) -> list[Any]:
    """The data of each event, [DONE] as it is."""
    data = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    return ["[DONE]" if d == b"[DONE]" else json.loads(d) for d in data]


@ROUTES
async def test_who_waits_for_a_stream_is_told_and_then_served_as_ever(daemon: FakeDaemon, path: str) -> None:
    async with connected(daemon.port) as client:
        client.post(path, ask())
        found = NOTICE.fullmatch(await noticed(client))
        assert found is not None
        assert found[1] == b"loading alpha"
        assert int(found[2]) == 1
        assert int(found[3]) > 0
        daemon.engines["alpha"].load_gate.release()
        body = await rest(client)
    request = daemon.engines["alpha"].inference[0]
    assert body == b"".join(reply_to(request.as_asked()).chunks)


async def test_the_place_in_the_queue_is_told(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as first, connected(daemon.port) as second:
        first.post(CHAT, ask())
        await waits(daemon, "alpha", 1)
        second.post(CHAT, ask("beta"))
        found = NOTICE.fullmatch(await noticed(second))
        assert found is not None
        assert found[1] == b"waiting for room for beta"
        assert int(found[2]) == 2
        daemon.engines["alpha"].load_gate.release()
        assert (await first.answer()).status == 200
        assert (await rest(second)).endswith(DONE)


async def test_notices_are_repeated_with_what_goes_on_then(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "NOTICE_EVERY_S", 0.02)
    leases = [await daemon.pool.acquire([name]) for name in ("beta", "org/gamma")]
    async with connected(daemon.port) as client:
        client.post(CHAT, ask())
        assert b"others are busy" in await noticed(client)
        assert b"others are busy" in await client.chunk()
        for lease in leases:
            lease.release()
        while b"loading alpha" not in (chunk := await client.chunk()):
            assert NOTICE.fullmatch(chunk)
        daemon.engines["alpha"].load_gate.release()
        assert len(events(await rest(client))) == 4


async def test_who_is_served_in_time_hears_nothing(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].load_gate.release()
    await use(daemon, "alpha")
    daemon.engines["alpha"].chunks.hold()
    async with connected(daemon.port) as client:
        client.post(CHAT, ask())
        await asyncio.sleep(3 * NOTICE_S)  # the engine takes its time; that is no wait for the model
        daemon.engines["alpha"].chunks.release()
        assert b"\n:" not in b"\n" + (await client.answer()).body


@pytest.mark.parametrize(
    ("path", "more"),
    [(CHAT, {"stream": False}), (CHAT, {"stream": None}), ("/v1/embeddings", {}), ("/tokenize", {}), ("/rerank", {})],
)
async def test_who_asked_for_no_events_gets_none_and_the_real_status(
    daemon: FakeDaemon, path: str, more: dict[str, Any]
) -> None:
    async with connected(daemon.port) as client:
        client.post(path, ask(**more))
        await waits(daemon, "alpha")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.head(), 4 * NOTICE_S)
        daemon.engines["alpha"].reply = lambda _: whole({"error": {"message": "no"}}, "422 Unprocessable Entity")
        daemon.engines["alpha"].load_gate.release()
        answer = await client.answer()
    assert (answer.status, answer.json()) == (422, {"error": {"message": "no"}})


async def test_a_refusal_before_the_first_notice_has_its_real_status(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        client.post(CHAT, ask("nobody"))
        assert (await client.answer()).status == 404


def told(path: str, body: bytes) -> dict[str, Any]:
    """The error that the stream ends with, in the dialect of the route."""
    found = events(body)
    if path in (CHAT, "/v1/completions"):
        assert found.pop() == "[DONE]"
    (event,) = found
    if path in ("/v1/responses", "/v1/messages"):
        assert b"event: error\n" in body
        assert event["type"] == "error"
    error: dict[str, Any] = event["error"]
    return error


@ROUTES
async def test_a_load_that_fails_after_a_notice_is_told_in_the_stream(daemon: FakeDaemon, path: str) -> None:
    async with connected(daemon.port) as client:
        client.post(path, ask())
        await noticed(client)
        daemon.engines["alpha"].fail_loads("broken weights")
        daemon.engines["alpha"].load_gate.release()
        body = await rest(client)
    assert told(path, body)["message"] == "broken weights"
    if path == CHAT:
        assert told(path, body)["code"] == "model_unavailable"


async def test_the_limit_of_the_wait_is_told_in_the_stream() -> None:
    async with running_daemon(pool={"wait_notice_s": 0.02, "max_wait_s": 0.2}) as daemon:
        daemon.engines["alpha"].load_gate.hold()
        async with connected(daemon.port) as client:
            client.post(CHAT, ask())
            await noticed(client)
            assert told(CHAT, await rest(client))["code"] == "wait_limit"


async def test_the_daemons_end_is_told_in_the_stream(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        client.post(CHAT, ask())
        await noticed(client)
        daemon.pool.refuse_new()
        assert told(CHAT, await rest(client))["code"] == "shutting_down"


@ROUTES
async def test_an_engines_refusal_after_a_notice_is_told_in_its_own_words(daemon: FakeDaemon, path: str) -> None:
    own = {"message": "max_tokens is too large", "type": "BadRequestError", "param": "max_tokens", "code": 400}
    daemon.engines["alpha"].reply = lambda _: whole({"error": own}, "400 Bad Request")
    async with connected(daemon.port) as client:
        client.post(path, ask())
        await noticed(client)
        daemon.engines["alpha"].load_gate.release()
        assert told(path, await rest(client)) == own


@pytest.mark.parametrize(
    "reply",
    [
        Reply([b"Internal Server Error"], "500 Internal Server Error", (("content-type", "text/plain"),)),
        Reply([b'{"a": 1}'], "200 OK"),
        Reply([b"[", b"{" * (1 << 17), b"x"], "502 Bad Gateway"),
        Reply([b'{"error": "text"}'], "404 Not Found"),
    ],
)
async def test_an_engines_answer_that_is_no_stream_of_events_is_told_by_its_status(
    daemon: FakeDaemon, reply: Reply
) -> None:
    daemon.engines["alpha"].reply = lambda _: reply
    async with connected(daemon.port) as client:
        client.post(CHAT, ask())
        await noticed(client)
        daemon.engines["alpha"].load_gate.release()
        error = told(CHAT, await rest(client))
    assert error["code"] == "engine_refused"
    assert reply.status[:3] in error["message"]


async def test_an_engine_that_dies_in_a_noticed_stream_is_told_once(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.reply = lambda _: stream([b'data: {"n": 1}\n\n', b'data: {"n"', b": 2}\n\n", DONE])
    alpha.chunks.hold()
    async with connected(daemon.port) as client:
        client.post(CHAT, ask())
        await noticed(client)
        alpha.load_gate.release()
        request = await alpha.request()
        alpha.chunks.release(2)
        await until(lambda: request.sent == 2, "half an event to leave")
        await turns()
        await alpha.die()
        found = events(await rest(client))
    assert found[0] == {"n": 1}
    assert found[1]["error"]["code"] == "engine_died"
    assert found[2:] == ["[DONE]"]


async def test_a_client_that_leaves_after_a_notice_frees_its_place(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as leaves, connected(daemon.port) as stays:
        leaves.post(CHAT, ask())
        await noticed(leaves)
        stays.post(CHAT, ask())
        await waits(daemon, "alpha", 2)
        leaves.leave()
        await waits(daemon, "alpha", 1)
        assert daemon.pool.view().queue[0].place == 1
        daemon.engines["alpha"].load_gate.release()
        assert (await stays.answer()).status == 200
    assert len(daemon.engines["alpha"].inference) == 1


async def test_a_model_removed_while_it_is_waited_for_is_told(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        client.post(CHAT, ask())
        await noticed(client)
        daemon.pool.stop("alpha")
        assert "was stopped" in told(CHAT, await rest(client))["message"]
    await until(lambda: daemon.view("alpha").residency is Residency.COLD, "alpha to be gone")


async def test_openais_client_reads_a_noticed_stream(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay, "NOTICE_EVERY_S", 0.02)
    caplog.set_level(logging.WARNING)

    async def release() -> None:
        await waits(daemon, "alpha", 2)
        await asyncio.sleep(4 * NOTICE_S)  # several notices
        daemon.engines["alpha"].load_gate.release()

    def synchronous() -> list[str | None]:
        with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
            chunks = client.chat.completions.create(**asked)
            return [chunk.choices[0].delta.content for chunk in chunks]

    asked: dict[str, Any] = {
        "model": "alpha",
        "messages": [{"role": "user", "content": "one two three"}],
        "stream": True,
    }
    release_task = asyncio.create_task(release())
    in_thread = asyncio.create_task(asyncio.to_thread(synchronous))
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        chunks = await client.chat.completions.create(**asked)
        texts = [chunk.choices[0].delta.content async for chunk in chunks]
    await release_task
    assert texts == await in_thread == ["one ", "two ", "three "]


async def test_openais_client_raises_what_is_told_after_a_notice(daemon: FakeDaemon) -> None:
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "one"}]
        asking = asyncio.create_task(client.chat.completions.create(model="alpha", messages=messages, stream=True))
        chunks = await asking  # the head is here with the first notice
        daemon.engines["alpha"].fail_loads("broken weights")
        daemon.engines["alpha"].load_gate.release()
        with pytest.raises(openai.APIError, match="broken weights"):
            async for _ in chunks:
                pass


async def test_notices_reach_the_very_bytes_of_the_answer_that_follows(daemon: FakeDaemon) -> None:
    """What is no event at all (a comment of the engine's, a long line) passes as well."""
    pieces = [b": ping\n\n", b"data: " + b"x" * (3 << 20) + b"\n\n", b"data: tail"]
    daemon.engines["alpha"].reply = lambda _: stream(pieces)
    async with connected(daemon.port) as client:
        client.post(CHAT, ask())
        await noticed(client)
        daemon.engines["alpha"].load_gate.release()
        assert await rest(client) == b"".join(pieces)


def test_the_pattern_finds_notices_alone() -> None:
    assert NOTICE.fullmatch(b": loading a, place 1 in the queue, about 3 s\n\n")
    assert not NOTICE.search(b"data: x\n\n: ping\n\n")
