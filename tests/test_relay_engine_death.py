"""The engine ends while it answers: the client is told in its own dialect, and never takes a part for the whole."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest

from arena_server.engine import failures
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.fake_engine import FakeEngine
from tests.support.gate import until
from tests.support.leases import stands_still, use
from tests.support.raw_client import Cut, connected, post
from tests.support.replies import EVENT_STREAM, Reply

ASK: dict[str, Any] = {"model": "alpha", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 3}
MESSAGE = "The engine of model `alpha` ended while it answered. The next request starts it again."
ERROR = {"message": MESSAGE, "type": "server_error", "param": None, "code": "engine_died"}


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    """Checks that the death of one engine leaves the pool in order, and the model usable."""
    async with running_daemon() as running:
        yield running
        alpha = running.engines["alpha"]
        await running.idle("alpha")
        await until(lambda: alpha.loaded or not alpha.remains, "the remains to be gone")
        alpha.chunks.release()
        alpha.reply = FakeEngine("alpha", alpha._directory).reply
        assert (await post(running.port, "/v1/chat/completions", ASK)).status == 200
        assert alpha.loads == 2


def dying(daemon: FakeDaemon, after: int) -> FakeEngine:
    """Alpha, which sends so many chunks and waits for its death."""
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    alpha.chunks.release(after)
    return alpha


async def rest(daemon: FakeDaemon, path: str, body: dict[str, Any]) -> bytes:
    """What the client still gets of a stream whose engine dies after its first event."""
    alpha = dying(daemon, 1)
    async with connected(daemon.port) as client:
        client.post(path, {**body, "stream": True})
        await client.chunk_after_head()
        await alpha.die()
        received = b""
        while chunk := await client.chunk():
            received += chunk
        return received


async def test_before_the_answer_it_is_a_502_in_openais_form(daemon: FakeDaemon) -> None:
    alpha = dying(daemon, 0)
    async with connected(daemon.port) as client:
        client.post("/v1/chat/completions", ASK)
        await alpha.request()
        await alpha.die()
        answer = await client.answer()
    assert answer.status == 502
    assert answer.error() == ERROR
    assert answer.header("retry-after") == "1"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/audio/transcriptions"])
async def test_in_a_stream_it_is_an_error_event_and_the_end(daemon: FakeDaemon, path: str) -> None:
    if path == "/v1/audio/transcriptions":
        daemon.engines["alpha"].reply = lambda _: Reply([b"data: {}\n\n"] * 3, headers=EVENT_STREAM)
    event, done, end = (await rest(daemon, path, {**ASK, "prompt": "a"})).lstrip(b"\n").split(b"\n\n")
    assert json.loads(event.removeprefix(b"data: ")) == {"error": ERROR}
    assert done == b"data: [DONE]"
    assert end == b""


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages?beta=true"])
async def test_in_a_messages_stream_it_is_anthropics_error_event(daemon: FakeDaemon, path: str) -> None:
    event, end = (await rest(daemon, path, ASK)).lstrip(b"\n").split(b"\n\n")
    name, data = event.split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: ")) == {
        "type": "error",
        "error": {"type": "api_error", "message": MESSAGE},
    }
    assert end == b""


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses?x=1"])
async def test_in_a_responses_stream_it_is_its_typed_error_event(daemon: FakeDaemon, path: str) -> None:
    event, end = (await rest(daemon, path, {**ASK, "input": "a b c"})).lstrip(b"\n").split(b"\n\n")
    name, data = event.split(b"\n")
    assert name == b"event: error"
    body = json.loads(data.removeprefix(b"data: "))
    assert body["type"] == "error"
    assert (body["code"], body["message"], body["param"]) == ("engine_died", MESSAGE, None)
    assert end == b""


@pytest.mark.parametrize("dialect", ["chat", "completions", "responses"])
async def test_openais_client_raises_with_the_reason(daemon: FakeDaemon, dialect: str) -> None:
    alpha = dying(daemon, 1)
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        stream: Any
        if dialect == "chat":
            stream = await client.chat.completions.create(
                model="alpha", messages=[{"role": "user", "content": "a b c"}], stream=True
            )
        elif dialect == "completions":
            stream = await client.completions.create(model="alpha", prompt="a b c", stream=True)
        else:
            stream = await client.responses.create(model="alpha", input="a b c", stream=True)
        assert await anext(stream)
        await alpha.die()
        with pytest.raises(openai.APIError, match="ended while it answered") as raised:
            async for _ in stream:
                pass
        assert raised.value.code == "engine_died"


@pytest.mark.parametrize("beta", [False, True])
async def test_anthropics_client_raises_with_the_reason(daemon: FakeDaemon, beta: bool) -> None:
    anthropic = pytest.importorskip("anthropic")
    alpha = dying(daemon, 2)
    async with anthropic.AsyncAnthropic(base_url=daemon.url, api_key="none", max_retries=0) as client:
        messages = client.beta.messages if beta else client.messages
        stream = await messages.create(**ASK, stream=True)
        assert (await anext(stream)).type == "message_start"
        assert (await anext(stream)).type == "content_block_delta"
        await alpha.die()
        with pytest.raises(anthropic.APIStatusError, match="ended while it answered"):
            async for _ in stream:
                pass


async def test_an_event_cut_in_the_middle_is_not_taken_for_one(daemon: FakeDaemon) -> None:
    """What stands before the error parses as events, or the stream is cut; the client never gets half an event."""
    alpha = dying(daemon, 1)
    alpha.reply = lambda _: Reply([b'data: {"choices": []}\n\ndata: {"choi', b'ces": []}\n\n'], headers=EVENT_STREAM)
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="alpha", messages=[{"role": "user", "content": "a"}], stream=True
        )
        assert (await anext(aiter(stream))).choices == []
        await alpha.die()
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass


@pytest.mark.parametrize("length", [100, None], ids=["length", "chunked"])
async def test_an_answer_in_one_piece_is_cut_and_cannot_be_taken_for_whole(
    daemon: FakeDaemon, length: int | None
) -> None:
    alpha = dying(daemon, 1)
    alpha.reply = lambda _: Reply([b'{"a": 1', b"0}"], length=length)
    async with connected(daemon.port) as client:
        client.post("/v1/chat/completions", ASK)
        status, _ = await client.head()
        assert status == 200
        await alpha.die()
        if length is not None:
            assert await client.ended() == b'{"a": 1'
        else:
            assert await client.chunk() == b'{"a": 1'
            with pytest.raises(Cut):
                await client.chunk()


async def test_a_common_client_notices_that_an_answer_was_cut(daemon: FakeDaemon) -> None:
    alpha = dying(daemon, 1)
    alpha.reply = lambda _: Reply([b'{"a": 1', b"0}"], length=9)
    async with (
        aiohttp.ClientSession(daemon.url) as session,
        session.post("/v1/chat/completions", json=ASK) as response,
    ):
        await alpha.die()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_the_other_models_do_not_notice(daemon: FakeDaemon) -> None:
    alpha, beta = dying(daemon, 1), daemon.engines["beta"]
    beta.chunks.hold()
    async with connected(daemon.port) as other, connected(daemon.port) as client:
        other.post("/v1/chat/completions", {**ASK, "model": "beta", "stream": True})
        await beta.request()
        client.post("/v1/chat/completions", {**ASK, "stream": True})
        await client.chunk_after_head()
        await alpha.die()
        while await client.chunk():
            pass
        beta.chunks.release()
        assert b"[DONE]" in (await other.answer()).body
    assert beta.loads == 1


async def test_all_streams_of_the_engine_are_told(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with connected(daemon.port) as first, connected(daemon.port) as second:
        for number, client in enumerate((first, second)):
            client.post("/v1/chat/completions", {**ASK, "stream": True})
            await alpha.request(number)
        alpha.chunks.release(2)
        for client in (first, second):
            await client.chunk_after_head()
        await alpha.die()
        for client in (first, second):
            assert b"engine_died" in await client.chunk()


async def test_while_the_client_reads_slowly_it_gets_what_has_come_and_then_the_error(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    line = b"data: " + b"x" * 65000 + b"\n\n"
    alpha.reply = lambda _: Reply([line] * 500, headers=EVENT_STREAM)
    async with connected(daemon.port, receive_buffer=1 << 14) as client:
        client.post("/v1/chat/completions", {**ASK, "stream": True})
        await stands_still(await alpha.request())
        await alpha.die()
        received = (await client.answer()).body
    whole, event, done, end = received.rsplit(b"\n\n", 3)
    assert json.loads(event.strip().removeprefix(b"data: ")) == {"error": ERROR}
    assert (done, end) == (b"data: [DONE]", b"")
    assert set(whole.strip().split(b"\n\n")) == {line.strip()}


async def test_an_engine_that_talks_nonsense_is_a_502(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "HEARS_OF_DEATH_S", 0.01)  # it lives on
    alpha = daemon.engines["alpha"]
    alpha.reply = lambda _: Reply([], "nonsense", length=0)
    answer = await post(daemon.port, "/v1/chat/completions", ASK)
    assert answer.status == 502
    assert answer.error()["code"] == "engine_died"
    await alpha.die()


async def test_a_request_that_comes_before_the_death_is_known_is_served_by_the_next_engine(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    await use(daemon, "alpha")
    await alpha.vanish()
    async with connected(daemon.port) as client:
        client.post("/v1/chat/completions", ASK)
        await until(lambda: daemon.view("alpha").running, "the request to be granted the dead engine")
        alpha.tell_death()
        assert (await client.answer()).status == 200
    assert alpha.loads == 2


async def test_a_client_that_leaves_before_the_death_is_known_loads_nothing(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    await use(daemon, "alpha")
    await alpha.vanish()
    async with connected(daemon.port) as client:
        client.post("/v1/chat/completions", ASK)
        await until(lambda: daemon.view("alpha").running, "the request to be granted the dead engine")
        client.leave()
        await daemon.idle("alpha")
    alpha.tell_death()
    await until(lambda: not alpha.remains, "the remains to be gone")
    assert alpha.loads == 1


async def test_an_engine_that_takes_no_requests_and_does_not_die_is_a_502(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "HEARS_OF_DEATH_S", 0.01)
    alpha = daemon.engines["alpha"]
    await use(daemon, "alpha")
    await alpha.vanish()
    answer = await post(daemon.port, "/v1/chat/completions", ASK)
    assert answer.status == 502
    assert answer.error() == {**ERROR, "message": "The engine of model `alpha` takes no requests."}
    alpha.tell_death()
