"""The short way of an answer: from the engine's connection to the client's without a turn of the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from starlette.types import Message

from arena_server.api.http_exchange import HttpExchange
from arena_server.engine.client import EngineLost, Taker
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.fake_engine import FakeEngine
from tests.support.gate import turns, until
from tests.support.raw_client import connected
from tests.support.replies import Reply, stream

PATH = "/v1/completions"
ASK = {"model": "alpha", "prompt": "one two three", "max_tokens": 3, "stream": True}
PIECES = [b"data: %d\n\n" % n for n in range(40)]


def taking(taken: list[bytes]) -> Taker:
    """Takes everything."""

    def take(piece: bytes) -> bool:
        taken.append(piece)
        return True

    return take


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with running_daemon() as running:
        yield running
        await running.come_to_rest()


@pytest.fixture
async def engine(daemon: FakeDaemon) -> FakeEngine:
    async with daemon.pool.lease(["alpha"]):
        pass
    engine = daemon.engines["alpha"]
    engine.reply = lambda _: stream([b"", *PIECES])
    engine.chunks.hold()
    engine.chunks.release(1)  # for the head
    return engine


async def test_a_streams_pieces_go_by_the_short_way(
    daemon: FakeDaemon, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = HttpExchange.write

    def noted(exchange: HttpExchange, some: bytes) -> None:
        written.append(some)
        write(exchange, some)

    monkeypatch.setattr(HttpExchange, "write", noted)
    async with connected(daemon.port) as client:
        client.post(PATH, ASK)
        got: list[bytes] = []
        assert (await client.head())[0] == 200
        for _ in PIECES:
            engine.chunks.release(1)
            got.append(await client.chunk())
        assert await client.chunk() == b""
    assert got == PIECES
    assert written == PIECES[-len(written) :]
    assert len(written) >= len(PIECES) - 1, "the first may come while the head is sent"


async def test_what_is_not_taken_comes_later_and_in_order(engine: FakeEngine) -> None:
    taken: list[bytes] = []
    left: list[bytes] = []
    willing = True

    def take(piece: bytes) -> bool:
        if willing:
            taken.append(piece)
        return willing

    async with engine.client.post(PATH, [], json.dumps(ASK).encode()) as answer:
        pieces = answer.chunks(take)
        first = asyncio.ensure_future(anext(pieces))
        await until(lambda: answer.awaited, "somebody to wait")
        engine.chunks.release(10)
        await until(lambda: b"".join(taken) == b"".join(PIECES[:10]), "ten to be taken")
        assert not first.done()
        assert answer.awaited, "it waits on for what is not taken"
        willing = False
        engine.chunks.release(1)
        left.append(await first)
        willing = True
        engine.chunks.release(5)  # while nobody waits nothing is given away
        await until(lambda: engine.inference[-1].sent == 17, "they to be sent")
        await turns()
        assert b"".join(taken) == b"".join(PIECES[:10])
        engine.chunks.release()
        left += [piece async for piece in pieces]
    assert b"".join(taken[:10] + left[:1]) == b"".join(PIECES[:11])
    assert sorted(b"".join(taken + left).split()) == sorted(b"".join(PIECES).split())
    assert b"".join(left).startswith(b"".join(PIECES[10:16]))


async def test_a_defect_in_who_takes_is_not_the_engines_end(engine: FakeEngine) -> None:
    def take(piece: bytes) -> bool:
        raise KeyError(piece)

    async with engine.client.post(PATH, [], json.dumps(ASK).encode()) as answer:
        first = asyncio.ensure_future(anext(answer.chunks(take)))
        await until(lambda: answer.awaited, "somebody to wait")
        engine.chunks.release(1)
        with pytest.raises(KeyError):
            await first


async def test_nothing_is_given_to_who_has_stopped_waiting(engine: FakeEngine) -> None:
    taken: list[bytes] = []
    async with engine.client.post(PATH, [], json.dumps(ASK).encode()) as answer:
        first = asyncio.ensure_future(anext(answer.chunks(taking(taken))))
        await until(lambda: answer.awaited, "somebody to wait")
        first.cancel()  # in this turn of the loop it is still there
        engine.chunks.release()
        with suppress(asyncio.CancelledError):
            await first
        await until(lambda: engine.inference[-1].sent > 1, "a piece to be sent")
        await turns()
    assert not taken


async def test_an_engine_that_dies_after_pieces_were_taken_is_lost(engine: FakeEngine) -> None:
    taken: list[bytes] = []
    async with engine.client.post(PATH, [], json.dumps(ASK).encode()) as answer:
        first = asyncio.ensure_future(anext(answer.chunks(taking(taken))))
        await until(lambda: answer.awaited, "somebody to wait")
        engine.chunks.release(3)
        await until(lambda: b"".join(taken) == b"".join(PIECES[:3]), "three to be taken")
        await engine.die()
        with pytest.raises(EngineLost):
            await first


async def test_under_another_server_it_goes_the_long_way_and_leaving_is_noticed(daemon: FakeDaemon) -> None:
    engine = daemon.engines["alpha"]
    engine.reply = lambda _: Reply(PIECES, headers=[("content-type", "text/event-stream")])
    engine.chunks.hold()
    sent: list[Message] = []
    left = asyncio.Event()
    body = [{"type": "http.request", "body": json.dumps(ASK).encode(), "more_body": False}]

    async def receive() -> Message:
        if body:
            return body.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        **{"type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b""},
        **{"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)},
        **{"scheme": "http", "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"}},
    }
    answering = asyncio.ensure_future(daemon.daemon.app(scope, receive, send))
    request = await engine.request()
    engine.chunks.release(2)
    await until(lambda: b"".join(m.get("body", b"") for m in sent) == b"".join(PIECES[:2]), "two to be sent")
    left.set()
    await answering
    engine.chunks.release()
    await until(lambda: request.aborted, "the engine to be told")
    assert not daemon.view("alpha").running
