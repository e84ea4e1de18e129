"""HTTP/1.1 by hand, to see each byte and each chunk when it comes, and to send what no library would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.gate import LIMIT_S

Header = tuple[str, str]


class Cut(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Header names in lower case."""

    status: int
    headers: list[Header]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        return next((v for n, v in self.headers if n == name), None)

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        """The error in OpenAI's form, which the body has to have exactly."""
        body = self.json()
        assert self.header("content-type") == "application/json"
        assert body.keys() == {"error"}, body
        error: dict[str, Any] = body["error"]
        assert list(error) == ["message", "type", "param", "code"], error
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)
        return error


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until what was sent has been taken (most of it)."""
        await self._writer.drain()

    def request(self, method: str, path: str, body: bytes = b"", headers: Sequence[Header] = ()) -> None:
        """Send a request; Host and Content-Length are added unless `headers` has them."""
        named = {name.lower() for name, _ in headers}
        added = [("Host", "localhost")] if "host" not in named else []
        if not named & {"content-length", "transfer-encoding"} and (body or method == "POST"):
            added.append(("Content-Length", str(len(body))))
        lines = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in [*added, *headers]), "", ""]
        self.send("\r\n".join(lines).encode("latin-1") + body)

    def post(self, path: str, body: Any, headers: Sequence[Header] = ()) -> None:
        """Send JSON."""
        self.request("POST", path, json.dumps(body).encode(), [("Content-Type", "application/json"), *headers])

    async def head(self) -> tuple[int, list[Header]]:
        """Status and headers of the answer."""
        first, *lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        pairs = (line.partition(":") for line in lines)
        return int(first.split(" ")[1]), [(n.lower(), v.strip()) for n, _, v in pairs]

    async def chunk(self) -> bytes:
        """The next chunk of a chunked answer; empty at its end."""
        size = int(await self._until(b"\r\n"), 16)
        data = await self.exactly(size)
        assert await self.exactly(2) == b"\r\n"
        return data

    async def chunk_after_head(self) -> bytes:
        """The first chunk of a chunked answer, whose head is not of interest."""
        await self.head()
        return await self.chunk()

    async def answer(self, method: str = "POST") -> Answer:
        """The whole answer. Raises Cut if the connection ends before it does."""
        status, headers = await self.head()
        by_name = dict(headers)
        body = bytearray()
        if by_name.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                body += chunk
        elif method != "HEAD":
            body += await self.exactly(int(by_name["content-length"]))
        return Answer(status, headers, bytes(body))

    async def exactly(self, count: int) -> bytes:
        """So many bytes."""
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self._reader.readexactly(count)
        except (asyncio.IncompleteReadError, ConnectionError) as e:
            raise Cut(repr(e)) from e

    async def ended(self) -> bytes:
        """Whatever still comes until the server closes the connection."""
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(ConnectionError):
                return await self._reader.read()
        return b""

    def leave(self) -> None:
        """Hang up without a word."""
        self._writer.transport.abort()

    def close(self) -> None:
        """Close the connection in good order."""
        self._writer.close()

    async def _until(self, mark: bytes) -> bytes:
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self._reader.readuntil(mark)
        except (asyncio.IncompleteReadError, ConnectionError) as e:
            raise Cut(repr(e)) from e


@contextlib.asynccontextmanager
async def connected(port: int, receive_buffer: int | None = None) -> AsyncIterator[RawClient]:
    """A connection to the port; a small `receive_buffer` lets a slow reader be felt soon."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 16)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def once(port: int, method: str, path: str, body: bytes = b"", headers: Sequence[Header] = ()) -> Answer:
    """One request on a connection of its own."""
    async with connected(port) as client:
        client.request(method, path, body, headers)
        return await client.answer(method)


async def post(port: int, path: str, body: Any, headers: Sequence[Header] = ()) -> Answer:
    """JSON, on a connection of its own."""
    async with connected(port) as client:
        client.post(path, body, headers)
        return await client.answer()
