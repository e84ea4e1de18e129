"""The connection that is made ahead of a request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from arena_server.engine.client import EngineClient, EngineUnreachable
from arena_server.engine.spare import Spare
from tests.support.gate import until

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class End(asyncio.Protocol):
    """The engine's end of a connection."""

    def __init__(self, asked: list[End]) -> None:
        self._asked = asked
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._asked.append(self)
        self.transport.write(ANSWER)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False


class Server:
    """An engine's socket. `connections` are all that were ever made, `asked` those on which requests came, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[End] = []
        self.asked: list[End] = []

    def end(self) -> None:
        """As when the engine's process ends: nobody listens, and what was open is cut."""
        self._server.close()
        self.path.unlink(missing_ok=True)
        for connection in self.connections:
            connection.transport.abort()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        def made() -> End:
            self.connections.append(End(self.asked))
            return self.connections[-1]

        self._server = await asyncio.get_running_loop().create_unix_server(made, self.path)
        try:
            yield self
        finally:
            self.end()
            await until(lambda: not any(c.open for c in self.connections), "all connections to be gone")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(tmp_path / "s").running() as server:
        yield server


async def ask(client: EngineClient) -> bytes:
    async with client.post("/", [], b"") as answer:
        return await answer.read()


async def test_the_next_request_finds_its_connection_made(server: Server) -> None:
    client = EngineClient(server.path, ahead=True)
    for number in range(3):
        assert await ask(client) == b"ok"
        assert server.asked == server.connections[: number + 1]
        await until(lambda n=number: len(server.connections) == n + 2, "the next to be made")  # type: ignore[misc]
    client.close()
    assert len(server.connections) == 4


async def test_it_is_not_taken_for_a_request_that_runs(server: Server) -> None:
    client = EngineClient(server.path, ahead=True)
    await ask(client)
    await until(lambda: len(server.connections) == 2, "the next to be made")
    assert not client.is_in_use
    assert not client.awaited
    client.close()


async def test_many_at_once_have_connections_of_their_own(server: Server) -> None:
    client = EngineClient(server.path, ahead=True)
    await ask(client)
    await until(lambda: len(server.connections) == 2, "the next to be made")
    assert await asyncio.gather(*(ask(client) for _ in range(5))) == [b"ok"] * 5
    assert len(set(server.asked)) == 6
    client.close()


class Held:
    """A connection as `Spare` knows it."""

    def __init__(self, own: socket.socket) -> None:
        self._own = own
        self.aborted = False

    def fileno(self) -> int:
        return self._own.fileno()

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize("ended", [False, True])
async def test_whether_the_engine_has_ended_is_seen_when_it_is_taken(ended: bool) -> None:
    own, engines = socket.socketpair()
    with own, engines:
        held = Held(own)

        async def connect() -> Any:
            return held

        spare = Spare(connect)
        spare.renew()
        await until(lambda: spare._ready is not None, "it to be made")
        if ended:
            engines.close()  # and the event loop has had no turn to tell
        taken: object = spare.take()
        assert taken is (None if ended else held)
        assert held.aborted is ended
        spare.close()


@pytest.mark.parametrize("closing", [False, True])
async def test_one_whose_end_was_told_is_no_trouble(server: Server, closing: bool) -> None:
    client = EngineClient(server.path, ahead=True)
    await ask(client)
    await until(lambda: len(server.connections) == 2, "the next to be made")
    spare = client._spare
    assert spare is not None
    await until(lambda: spare._ready is not None, "it to be there")
    server.end()
    await until(lambda: spare._ready is None or spare._ready.fileno() == -1, "its end to be told")
    if not closing:
        with pytest.raises(EngineUnreachable):
            await ask(client)
    client.close()


async def test_closed_it_holds_nothing_open(server: Server) -> None:
    client = EngineClient(server.path, ahead=True)
    await ask(client)
    await until(lambda: len(server.connections) == 2, "the next to be made")
    client.close()
    await until(lambda: not any(c.open for c in server.connections), "both to be closed")
    assert await ask(client) == b"ok"
    assert not client.is_in_use


async def test_none_is_made_without_being_asked_for(server: Server) -> None:
    client = EngineClient(server.path)
    await ask(client)
    await ask(client)
    await until(lambda: not any(c.open for c in server.connections), "both to be closed")
    assert len(server.connections) == 2
