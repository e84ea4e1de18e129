"""Something in the daemon's place that answers everything with 200, and keeps what nginx has sent it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.support.gate import until
from tests.support.raw_client import Header

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@dataclass(slots=True)
class Recorder:
    """`targets` are the request targets as they came, `headers` those of the last request (names in lower case)."""

    port: int
    targets: list[str] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    def header(self, name: str) -> list[str]:
        """All values that the last request had for it."""
        return [value for n, value in self.headers if n == name]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, of requests without bodies."""
        self.connections.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
                    self.targets.append(first.split(" ", 1)[1].rpartition(" ")[0])
                    pairs = (line.partition(":") for line in lines)
                    self.headers = [(name.lower(), value.strip()) for name, _, value in pairs]
                    writer.write(ANSWER)
        finally:
            self.connections.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def recording(on: socket.socket | None = None) -> AsyncIterator[Recorder]:
    """One, on a free port or on a socket that is bound already."""
    on = on or socket.create_server(("127.0.0.1", 0))
    recorder = Recorder(on.getsockname()[1])
    server = await asyncio.start_server(recorder.serve, sock=on)
    try:
        yield recorder
    finally:
        server.close()
        for writer in recorder.connections:
            writer.close()
        await server.wait_closed()
        await until(lambda: not recorder.connections, "the connections to end")
