"""Another server with a model: OpenAI's routes in small over TCP, that does what the test says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.support.gate import Gate
from tests.support.replies import Received, Reply, reply_to, whole

MODELS = ("org/there",)

# Writes an answer by hand; returns whether the connection may be used again.
ByHand = Callable[[Received, asyncio.StreamWriter], Awaitable[bool]]


def listed(*names: str) -> Reply:
    """A list of models."""
    return whole({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


class RemoteServer:
    """Answers GET /v1/models and, as a fake engine does, everything else."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.health: Callable[[], Reply] = lambda: listed(*MODELS)
        self.reply: Callable[[Received], Reply] = reply_to
        self.by_hand: ByHand | None = None  # instead of `reply`
        self.health_gate = Gate()
        self.chunks = Gate()  # each chunk of every answer but those of health passes through
        self.requests: list[Received] = []
        self.looks = 0
        self.connections = 0  # that were ever made
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """What `backend_url` is to be."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/v1"

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    async def start(self) -> None:
        """Listen; again on the same port after a `kill`."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=1 << 20, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """End as by SIGKILL: every connection is cut, and nobody listens."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in self._open.values():
            writer.transport.abort()
        tasks = [t for t in self._open if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                begun = await self._serve_one(b"", reader, writer)
                while begun:
                    begun = await self._serve_one(begun, reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            del self._open[task]

    async def _serve_one(self, begun: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """One request, of which `begun` is here; returns what is here of the next, nothing if the client hung up."""
        first, *lines = (begun + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        method, path, _ = first.split(" ")
        headers = [(n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines)]
        length = int(dict(headers).get("content-length", 0))
        request = Received(method, path, headers, await reader.readexactly(length))
        answering = asyncio.create_task(self._answer(request, writer))
        try:
            return await reader.read(1)
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            request.aborted = not request.finished

    async def _answer(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if request.method == "GET" and request.path == "/v1/models":
            self.looks += 1
            self.requests.append(request)
            await self.health_gate.wait()
            await self._write(request, self.health(), writer, Gate())
            return
        self.requests.append(request)
        if self.by_hand is None:
            await self._write(request, self.reply(request), writer, self.chunks)
        elif await self.by_hand(request, writer):
            request.finished = True
        else:
            writer.transport.abort()

    async def _write(self, request: Received, reply: Reply, writer: asyncio.StreamWriter, gate: Gate) -> None:
        await gate.wait()
        writer.write(reply.head())
        for number, chunk in enumerate(reply.chunks):
            if number:
                await gate.wait()
            if chunk:
                writer.write(reply.framed(chunk))
                await writer.drain()
            request.sent += 1
        if reply.length is None:
            writer.write(b"0\r\n\r\n")
        request.finished = True
        await writer.drain()

    @property
    def asked(self) -> list[Received]:
        """All requests but the looks at its health."""
        return [r for r in self.requests if r.method == "POST"]


@contextlib.asynccontextmanager
async def remote_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[RemoteServer]:
    """A server that runs."""
    server = RemoteServer(tls)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
