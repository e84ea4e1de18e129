"""The relay, on a real port: an engine's answers reach the client as they are and when they come."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.leases import stands_still
from tests.support.raw_client import connected, once, post
from tests.support.replies import Received, Reply

ASK = {"model": "alpha", "prompt": "one two three", "max_tokens": 3}


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with running_daemon() as running:
        yield running
        await running.idle("alpha")


async def test_each_chunk_reaches_the_client_before_the_engine_makes_the_next(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with connected(daemon.port) as client:
        client.post("/v1/completions", {**ASK, "stream": True})
        for number, text in enumerate(["one ", "two ", "three "]):
            # The last one waits for the sums, which vLLM sends along: from them it gets its fingerprint.
            alpha.chunks.release(made := 2 if text == "three " else 1)
            if number == 0:
                assert (await client.head())[0] == 200
            chunk = await client.chunk()
            assert json.loads(chunk.removeprefix(b"data: "))["choices"][0]["text"] == text
            assert alpha.inference[0].sent == number + made
            assert daemon.view("alpha").running == 1
        alpha.chunks.release(1)
        assert await client.chunk() == b"data: [DONE]\n\n"
        assert await client.chunk() == b""


async def test_the_headers_of_a_stream_do_not_wait_for_its_first_chunk(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.reply = lambda _: Reply([b"", b"data: late\n\n"], headers=[("content-type", "text/event-stream")])
    alpha.chunks.hold()
    async with connected(daemon.port) as client:
        client.post("/v1/completions", {**ASK, "stream": True})
        alpha.chunks.release(1)
        assert (await client.head())[0] == 200
        alpha.chunks.release(1)
        assert await client.chunk() == b"data: late\n\n"
        assert await client.chunk() == b""


async def test_two_streams_of_two_models_do_not_wait_for_each_other(daemon: FakeDaemon) -> None:
    alpha, beta = daemon.engines["alpha"], daemon.engines["beta"]
    alpha.chunks.hold()
    beta.chunks.hold()
    async with connected(daemon.port) as left, connected(daemon.port) as right:
        left.post("/v1/chat/completions", {"model": "alpha", "stream": True, "messages": [{"content": "a b c"}]})
        right.post("/v1/chat/completions", {"model": "beta", "stream": True, "messages": [{"content": "d e f"}]})
        beta.chunks.release()
        assert b"[DONE]" in (await right.answer()).body
        alpha.chunks.release()
        assert b"[DONE]" in (await left.answer()).body


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_every_dialect_arrives_as_the_engine_sent_it(daemon: FakeDaemon, path: str, stream: bool) -> None:
    body = {"model": "alpha", "max_tokens": 2, "stream": stream, "messages": [{"role": "user", "content": "x y"}]}
    if path == "/v1/responses":
        body["input"] = "x y"
    answer = await post(daemon.port, path, body)
    engine = daemon.engines["alpha"]
    assert answer.status == 200
    assert answer.body == b"".join(engine.reply(engine.inference[0].as_asked()).chunks)
    assert engine.inference[0].path == path


async def test_the_body_reaches_the_engine_byte_for_byte(daemon: FakeDaemon) -> None:
    # Not what json.dumps would write: blanks, an escape, a number's form, a repeated key.
    body = b'{"model" :"beta","model":"alpha",\n\t"temperature":1.50e0, "prompt":"caf\\u00e9 \xc3\xa9"}'
    assert (await once(daemon.port, "POST", "/v1/completions", body)).status == 200
    assert daemon.engines["alpha"].inference[0].body == body


async def test_a_chunked_request_reaches_the_engine_with_its_length(daemon: FakeDaemon) -> None:
    body = json.dumps(ASK).encode()
    chunked = b"".join(b"%x\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body))) + b"0\r\n\r\n"
    answer = await once(daemon.port, "POST", "/v1/completions", chunked, [("Transfer-Encoding", "chunked")])
    assert answer.status == 200
    request = daemon.engines["alpha"].inference[0]
    assert request.body == body
    assert request.header("content-length") == str(len(body))
    assert request.header("transfer-encoding") is None


@pytest.mark.parametrize("alias", ["gpt-4o", "org/alias"])
async def test_an_alias_reaches_the_model_it_stands_for(daemon: FakeDaemon, alias: str) -> None:
    answer = await post(daemon.port, "/v1/completions", {**ASK, "model": alias})
    assert answer.status == 200
    assert daemon.engines["alpha"].inference[0].json()["model"] == "alpha"  # an engine has no other name


async def test_the_query_travels_on(daemon: FakeDaemon) -> None:
    await post(daemon.port, "/v1/messages?beta=true&x=a%20b", {"model": "alpha", "messages": [{"content": "a"}]})
    assert daemon.engines["alpha"].inference[0].path == "/v1/messages?beta=true&x=a%20b"


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "422 Unprocessable Entity", "500 Oops"])
async def test_the_engines_own_errors_arrive_unchanged(daemon: FakeDaemon, status: str) -> None:
    body = b'{"error": {"message": "max_tokens is too large", "type": "BadRequestError", "code": 400} }'
    headers = [("content-type", "application/json"), ("x-detail", "1")]
    daemon.engines["alpha"].reply = lambda _: Reply([body], status, headers, length=len(body))
    answer = await post(daemon.port, "/v1/completions", ASK)
    assert answer.status == int(status.split(" ")[0])
    assert answer.body == body
    assert answer.header("x-detail") == "1"
    assert answer.header("retry-after") is None


async def test_what_speaks_of_one_connection_or_one_hop_stays_there(daemon: FakeDaemon) -> None:
    sent = [
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "secret"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Proxy-Authorization", "Basic c2VjcmV0"),
        ("Proxy-Connection", "keep-alive"),
        ("Authorization", "Bearer secret"),
        ("X-API-Key", "secret"),
        ("Cookie", "session=secret"),
        ("X-Request-ID", "r-1"),
        ("Accept", "text/event-stream"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
    ]
    await post(daemon.port, "/v1/completions", ASK, sent)
    request = daemon.engines["alpha"].inference[0]
    assert "secret" not in str(request.headers)
    assert [(n, v) for n, v in request.headers if n not in ("host", "content-length", "connection")] == [
        ("content-type", "application/json"),
        ("accept", "text/event-stream"),
        ("x-twice", "1"),
        ("x-twice", "2"),
        ("x-request-id", "r-1"),
    ]
    assert request.header("host") == "engine"


async def test_the_engines_headers_arrive_but_those_of_its_own_connection(daemon: FakeDaemon) -> None:
    body = b'{"ok": true}'
    headers = [
        ("content-type", "application/json"),
        ("x-request-id", "the engine's"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("connection", "close, x-hop"),
        ("x-hop", "secret"),
        ("keep-alive", "timeout=5"),
        ("content-encoding", "identity"),
    ]
    daemon.engines["alpha"].reply = lambda _: Reply([body], headers=headers, length=len(body))
    async with connected(daemon.port) as client:
        for _ in range(2):  # the engine's `connection: close` is not the client's
            client.post("/v1/completions", ASK, [("X-Request-ID", "r-1")])
            answer = await client.answer()
            assert answer.body == body
            (date,) = (v for n, v in answer.headers if n == "date")
            assert [h for h in answer.headers if h != ("date", date)] == [
                ("content-type", "application/json"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("content-encoding", "identity"),
                ("content-length", str(len(body))),
                ("x-arena-served-by", "alpha"),
                ("x-request-id", "r-1"),
            ]
            assert date != "Sat, 21 Nov 2026 10:06:00 GMT", "the engine's own date"


async def test_a_compressed_answer_stays_compressed(daemon: FakeDaemon) -> None:
    body = b"\x1f\x8b not really gzip"
    headers = [("content-type", "application/json"), ("content-encoding", "gzip")]
    daemon.engines["alpha"].reply = lambda _: Reply([body], headers=headers, length=len(body))
    answer = await post(daemon.port, "/v1/completions", ASK, [("Accept-Encoding", "gzip")])
    assert answer.body == body
    assert answer.header("content-encoding") == "gzip"
    assert daemon.engines["alpha"].inference[0].header("accept-encoding") == "gzip"


async def test_one_connection_carries_many_requests_whatever_became_of_each(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        for model, status in [("alpha", 200), ("nobody", 404), ("beta", 200), ("alpha", 200)]:
            for stream in (False, True):
                client.post("/v1/completions", {**ASK, "model": model, "stream": stream})
                assert (await client.answer()).status == status
        client.request("GET", "/v1/completions")
        assert (await client.answer()).status == 405
        client.request("POST", "/v1/completions", b"not JSON")
        assert (await client.answer()).status == 400
        client.post("/v1/completions", ASK)
        assert (await client.answer()).status == 200


async def test_a_redirect_of_the_engine_is_the_clients_to_follow(daemon: FakeDaemon) -> None:
    headers = [("location", "/sleep")]
    daemon.engines["alpha"].reply = lambda _: Reply([], "307 Temporary Redirect", headers, length=0)
    assert (await post(daemon.port, "/v1/completions", ASK)).status == 307
    assert len(daemon.engines["alpha"].inference) == 1


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_client_that_does_not_read_stops_the_engine_and_not_the_daemons_memory(
    daemon: FakeDaemon, framing: str
) -> None:
    piece, count = b"x" * 65535 + b"\n", 500
    alpha = daemon.engines["alpha"]

    def endless(_: Received) -> Reply:
        length = len(piece) * count if framing == "length" else None
        return Reply([piece] * count, headers=[("content-type", "text/event-stream")], length=length)

    alpha.reply = endless
    async with connected(daemon.port, receive_buffer=1 << 14) as client:
        client.post("/v1/completions", ASK)
        request = await alpha.request()
        await stands_still(request)
        # What the kernel's buffers on the way hold, and little more.
        assert request.sent * len(piece) < 16 << 20
        assert not request.finished
        assert (await client.answer()).body == piece * count
        assert request.finished
