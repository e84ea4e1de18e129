"""What is no HTTP, or hardly: refused with 4xx in OpenAI's form or by closing, and nobody else notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from arena_server.api import http_protocol
from arena_server.api.http_protocol import MOST_HEAD_BYTES
from tests.fuzz.health import check_well, watched
from tests.support.daemon_app import FakeDaemon, parts, running_daemon
from tests.support.raw_client import Answer, Cut, RawClient, connected
from tests.support.server import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"model": "alpha", "prompt": "a b"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with running_daemon() as running:
        yield running
        await running.come_to_rest()


async def said(client: RawClient) -> Answer | None:
    """What it answers; None if it hangs up without a word."""
    try:
        return await client.answer()
    except Cut:
        return None


def refused(answer: Answer | None, *statuses: int) -> None:
    """One of those, in OpenAI's form."""
    assert answer is not None
    assert answer.status in (statuses or (400,)), answer
    assert answer.error()["type"] == "invalid_request_error"
    assert answer.header("x-request-id")


NO_HTTP = {
    "words": b"hello\r\n\r\n",
    "zeros": b"\0" * 100,
    "TLS": bytes.fromhex("160301020001000001fc0303") + b"\x5a" * 100,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3": b"GET /health HTTP/3.0\r\nHost: localhost\r\n\r\n",
    "a method of nobody's": b"BREW /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method in small letters": b"get /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long method": b"G" * 10_000 + b" /health HTTP/1.1\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path without its slash": b"GET health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path that is no ASCII": b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a zero in the path": b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
    "a header without a colon": GET + b"nothing\r\n\r\n",
    "a header without a name": GET + b": x\r\n\r\n",
    "a space before the colon": GET + b"X-A : x\r\n\r\n",
    "a space in a name": GET + b"X A: x\r\n\r\n",
    "a folded header": b"GET /health HTTP/1.1\r\n folded: x\r\n\r\n",
    "a zero in a header": GET + b"X-A: a\0b\r\n\r\n",
    "a carriage return in a header": GET + b"X-A: a\rb\r\n\r\n",
    "two lengths": POST + LENGTH + b"Content-Length: 1\r\n\r\n" + BODY,
    "a length below zero": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length that is none": POST + b"Content-Length: many\r\n\r\n" + BODY,
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\n" + BODY,
    "a length beyond all numbers": POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n" + BODY,
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\n" + BODY,
    "length and chunks": POST + LENGTH + CHUNKED + b"\r\n0\r\n\r\n",
    "chunks and length": POST + CHUNKED + LENGTH + b"\r\n0\r\n\r\n",
    "chunked twice over": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "an encoding of nobody's": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a chunk that is none": POST + CHUNKED + b"\r\nzz\r\n",
    "a chunk below zero": POST + CHUNKED + b"\r\n-1\r\nx\r\n",
    "a chunk beyond all numbers": POST + CHUNKED + b"\r\n" + b"f" * 40 + b"\r\n",
    "a chunk longer than it says": POST + CHUNKED + b"\r\n1\r\n{}\r\n0\r\n\r\n",
    "a chunk with the wrong end": POST + CHUNKED + b"\r\n2\r\n{}xx0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("what", NO_HTTP)
async def test_what_is_no_http_gets_400(what: str, daemon: FakeDaemon) -> None:
    async with watched(), connected(daemon.port) as client:
        client.send(NO_HTTP[what])
        refused(await said(client), 400)
        assert await client.ended() == b""
    await check_well(daemon)


@pytest.mark.parametrize("what", NO_HTTP)
async def test_nor_is_it_http_byte_by_byte(what: str, daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        for byte in NO_HTTP[what]:
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        refused(await said(client), 400)


HARDLY_HTTP = {
    "an absolute URI": (b"GET http://elsewhere.example/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "another host": (b"GET /v1/models HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n", 403),
    "two hosts": (GET + b"Host: elsewhere.example\r\n\r\n", 403),
    "HTTP/0.9": (b"GET /v1/models\r\n\r\n", 200),
    "HTTP/1.0": (b"GET /v1/models HTTP/1.0\r\n\r\n", 200),
    "bytes beyond ASCII in a header": (GET + b"X-A: \xff\xfe\r\n\r\n", 200),
    "a websocket": (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 200),
    "HTTP/2 on top of it": (POST + LENGTH + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n" + BODY, 200),
    "a percent sign of nothing": (b"GET /v1/models/%zz%f HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "a path of no UTF-8": (b"GET /v1/models/%ff%c0%ae HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "line ends in a path": (b"GET /v1/models/a%0d%0aX-A:%20b HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "a body where none belongs": (GET + LENGTH + b"\r\n" + BODY, 200),
    "chunks with extensions": (POST + CHUNKED + b"\r\n%x;a=b;c\r\n%b\r\n0;d\r\n\r\n" % (len(BODY), BODY), 200),
    "one-byte chunks": (POST + CHUNKED + b"\r\n" + b"".join(b"1\r\n%c\r\n" % c for c in BODY) + b"0\r\n\r\n", 200),
    "trailers": (POST + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\nX-Trailer: x\r\n\r\n" % (len(BODY), BODY), 200),
    "a thousand headers": (GET + b"".join(b"X-%d: x\r\n" % i for i in range(1000)) + b"\r\n", 200),
}  # fmt: skip


@pytest.mark.parametrize("what", HARDLY_HTTP)
async def test_what_is_hardly_http_gets_its_answer(what: str, daemon: FakeDaemon) -> None:
    request, status = HARDLY_HTTP[what]
    async with watched(), connected(daemon.port) as client:
        client.send(request)
        answer = await said(client)
        assert answer is not None
        assert answer.status == status
        assert status == 200 or answer.error()["type"] == "invalid_request_error"
    for engine in daemon.engines.values():
        assert all(name != "x-trailer" for r in engine.requests for name, _ in r.headers)


async def test_after_an_upgrade_that_is_left_out_the_connection_closes(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        client.send(HARDLY_HTTP["HTTP/2 on top of it"][0])
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert await client.ended() == b""


ENDLESS = {
    "a path": (b"GET /", b"a" * 1024, 431),
    "a header": (GET + b"X-A: ", b"a" * 1024, 431),
    "a header's name": (GET, b"a" * 1024, 431),
    "headers": (GET, b"X-A: a\r\n" * 100, 431),
    "line ends before the request": (b"", b"\r\n" * 500, 431),
    "a chunk's extension": (POST + CHUNKED + b"\r\n1;", b"a" * 1024, 431),
    "a trailer": (POST + CHUNKED + b"\r\n2\r\n{}\r\n0\r\nX-A: ", b"a" * 1024, 431),
    "trailers": (POST + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n", b"X-A: a\r\n" * 100, 431),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_has_no_end_is_cut(what: str, daemon: FakeDaemon) -> None:
    begin, more, status = ENDLESS[what]
    async with watched(), connected(daemon.port) as client:
        client.send(begin)
        sent = 0
        answering = asyncio.create_task(said(client))
        while not answering.done():
            assert sent < 8 * MOST_HEAD_BYTES
            client.send(more)
            with suppress(ConnectionError):
                await client.drain()
            sent += len(more)
            await asyncio.sleep(0)
        refused(await answering, status)
    await check_well(daemon)


async def test_a_head_that_comes_whole_may_not_be_larger_either(daemon: FakeDaemon) -> None:
    for size, status in ((MOST_HEAD_BYTES - 200, 200), (MOST_HEAD_BYTES, 431)):
        async with connected(daemon.port) as client:
            client.send(GET + b"X-A: " + b"a" * size + b"\r\n\r\n")
            answer = await client.answer()
            assert answer.status == status


async def test_requests_one_after_another_without_waiting(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        client.send((POST + LENGTH + b"\r\n" + BODY + GET + b"\r\n") * 20)
        assert [(await client.answer()).status for _ in range(40)] == [200] * 40


async def test_ten_thousand_requests_at_once_are_too_many(daemon: FakeDaemon) -> None:
    async with watched(), connected(daemon.port) as client:
        client.send((GET + b"\r\n") * 10_000)
        await client.ended()
    await check_well(daemon)


async def test_no_refusal_comes_into_the_midst_of_an_answer(daemon: FakeDaemon) -> None:
    engine = daemon.engines["beta"]
    engine.chunks.hold()
    async with connected(daemon.port) as client:
        client.post("/v1/completions", {"model": "beta", "prompt": "a", "stream": True})
        request = await engine.request()
        engine.chunks.release(1)
        await client.chunk_after_head()
        client.send(b"this is no request\r\n\r\n")
        assert b"HTTP/1.1" not in await client.ended()
        engine.chunks.release()
        await daemon.idle("beta")
        assert not request.finished
    await check_well(daemon)


async def test_who_leaves_with_requests_in_the_line_stops_the_one_that_runs(daemon: FakeDaemon) -> None:
    engine = daemon.engines["alpha"]
    before = len(engine.inference)
    engine.chunks.hold()
    async with connected(daemon.port) as client:
        client.post("/v1/completions", {"model": "alpha", "prompt": "a", "stream": True, "max_tokens": 1000})
        await engine.request(len(engine.requests))
        client.request("GET", "/health")
        await client.drain()
    while daemon.view("alpha").running:
        engine.chunks.release(1)  # with a second request here, it shows only when something is written
        await asyncio.sleep(0)
    engine.chunks.release()
    assert len(engine.inference) == before + 1
    assert not engine.inference[-1].finished


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection's limits of time, in so many tenths as they have minutes."""
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.1)
    monkeypatch.setattr(http_protocol, "UNREAD_TIMEOUT_S", 0.1)


async def test_half_a_head_is_waited_for_so_long(daemon: FakeDaemon, hurried: None) -> None:
    async with connected(daemon.port) as client:
        client.send(GET)
        refused(await said(client), 408)


async def test_though_it_grows_by_a_byte_now_and_then(daemon: FakeDaemon, hurried: None) -> None:
    async with connected(daemon.port) as client:
        client.send(GET + b"X-A: ")
        answering = asyncio.create_task(said(client))
        started = time.monotonic()
        while not answering.done():
            client.send(b"a")
            await asyncio.wait([answering], timeout=0.01)
        refused(await answering, 408)
        assert time.monotonic() - started < 5


async def test_also_for_a_second_request(daemon: FakeDaemon, hurried: None) -> None:
    async with connected(daemon.port) as client:
        client.request("GET", "/v1/models")
        assert (await client.answer()).status == 200
        client.send(GET)
        refused(await said(client), 408)


async def test_who_says_nothing_is_hung_up_on_without_a_word(daemon: FakeDaemon, hurried: None) -> None:
    async with connected(daemon.port) as client:
        assert await client.ended() == b""


async def test_an_answer_may_take_longer_than_that(daemon: FakeDaemon, hurried: None) -> None:
    engine = daemon.engines["alpha"]
    engine.chunks.hold()
    async with connected(daemon.port) as client:
        client.post("/v1/completions", {"model": "alpha", "prompt": "a"})
        await asyncio.sleep(0.3)
        engine.chunks.release()
        assert (await client.answer()).status == 200


async def test_a_refused_body_without_end_is_not_read_for_ever(hurried: None) -> None:
    async with running_daemon(server={"max_body_bytes": 1000}) as daemon, connected(daemon.port) as client:
        client.request("POST", "/v1/completions", b"", [("Content-Length", str(1 << 40))])
        assert (await client.answer()).status == 413
        ending = asyncio.create_task(client.ended())
        while not ending.done():
            client.send(b" ")
            await asyncio.wait([ending], timeout=0.01)


async def test_who_reads_nothing_of_its_answer_loses_it(hurried: None) -> None:
    async with running_daemon() as daemon, connected(daemon.port, receive_buffer=4096) as client:
        engine = daemon.engines["alpha"]
        client.post("/v1/completions", {"model": "alpha", "prompt": "a" * 1000, "stream": True, "max_tokens": 20_000})
        request = await engine.request()
        await daemon.idle("alpha")
        assert not request.finished
        assert request.sent < 20_000


async def test_beyond_so_many_connections_the_next_is_refused() -> None:
    with parts() as joined:
        async with serving(joined.daemon.app, joined.pool, most_connections=4) as port:
            held = [connected(port) for _ in range(3)]
            clients = [await c.__aenter__() for c in held]
            async with connected(port) as one_more:
                answer = await said(one_more)
                assert answer is not None
                assert (answer.status, answer.error()["code"]) == (503, "too_many_connections")
                assert answer.header("retry-after") == "1"
            clients[0].request("GET", "/health")
            assert (await clients[0].answer()).status == 200
            for connection in held:
                await connection.__aexit__(None, None, None)
