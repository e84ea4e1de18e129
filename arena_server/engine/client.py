"""The HTTP client for an engine: HTTP/1.1 over its Unix socket, bytes handed on as they come.

Its own, for it is most of what a relayed token costs: with aiohttp's client the relay adds half a millisecond more to
the first one. A connection serves one request: vLLM closes used ones after 5 s at rest, and a request sent at that
moment would fail though the engine is well. Making one costs 0.1 ms, and the engine as much; the relay's is made ahead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import cast

import httptools

from arena_server.engine.spare import Spare

CONNECT_TIMEOUT_S = 5.0
BACKLOG_RETRY_S = 0.01
# Beyond this the engine is not read from until the client has taken what is here.
MOST_UNREAD_BYTES = 64 << 10

Header = tuple[bytes, bytes]
# Is offered a piece of an answer the moment it comes; returns whether it has taken it.
Taker = Callable[[bytes], bool]


class EngineUnreachable(Exception):
    """No connection to the engine: it has not got the request."""


class EngineLost(Exception):
    """The engine went away before its answer was whole."""


class EngineAnswer(asyncio.Protocol):
    """An answer while it comes; also the connection it comes on (httptools calls the `on_` methods)."""

    def __init__(self, client: EngineClient) -> None:
        self.status = 0
        self._client = client
        self.headers: list[Header] = []  # names as the engine wrote them
        self._closed = False
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._paused = False
        self._has_head = False
        self._complete = True
        self._waiting: asyncio.Future[None] | None = None
        self._taker: Taker | None = None

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the engine's next bytes; not while here are some that nobody has taken."""
        return self._waiting is not None and not self._waiting.done()

    async def chunks(self, taker: Taker | None = None) -> AsyncIterator[bytes]:
        """The body, as it comes. Raises EngineLost.

        What comes while nothing is left over goes to `taker` at once, without a turn of the event loop; what that does
        not take comes from here. Raises what it raises.
        """
        self._taker = taker
        try:
            while True:
                if self._unread:
                    yield self._take()
                elif self._complete:
                    return
                else:
                    await self._something()
        finally:
            self._taker = None

    async def read(self) -> bytes:
        """All of the body. Raises EngineLost."""
        return b"".join([chunk async for chunk in self.chunks()])

    def ask(self, head: bytes, body: bytes) -> None:
        """Send the request."""
        self._parser = httptools.HttpResponseParser(self)
        self._has_head = self._complete = False
        self._transport.writelines([head, body])

    async def head(self) -> None:
        """Wait for status and headers. Raises EngineLost."""
        while not self._has_head:
            await self._something()

    def fileno(self) -> int:
        """The connection's descriptor; -1 when it is closed."""
        return -1 if self._closed else cast(int, self._transport.get_extra_info("socket").fileno())

    def abort(self) -> None:
        """Close the connection; vLLM then aborts the request."""
        self._client.closed(self)  # at once, though the connection goes a moment later
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._client.pieces += 1
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()
        if self._unread or self._complete or self._taker is None:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._closed = True
        self._client.closed(self)
        self._wake()

    def on_message_begin(self) -> None:
        """A status line is coming (again, after one of 1xx)."""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The headers are whole."""
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= 200

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._taker is not None and not self._unread and self.awaited:
            try:
                if self._taker(body):
                    return
            except Exception as e:  # a defect, of which the parser would make an engine that is lost
                self._fail(e)
                return
        self._unread.append(body)
        self._unread_bytes += len(body)
        if self._unread_bytes > MOST_UNREAD_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._complete = self._has_head

    def _fail(self, error: Exception) -> None:
        """Have whoever waits raise it; what comes from now on is left for them."""
        waiting, self._waiting, self._taker = self._waiting, None, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    def _take(self) -> bytes:
        body = self._unread[0] if len(self._unread) == 1 else b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return body

    async def _something(self) -> None:
        if self._closed:
            raise EngineLost("the connection to the engine was lost")
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


class EngineClient:
    """Asks one engine; as many requests at a time as there are callers."""

    def __init__(self, path: Path, *, ahead: bool = False) -> None:
        """`path` is the engine's socket; `ahead`: the next one's connection is made before it comes, until `close`."""
        self.pieces = 0  # how many times bytes came; counted here, as it has to cost nothing
        self._path = str(path)
        self._open: set[EngineAnswer] = set()
        self._in_use = asyncio.Event()
        self._spare = Spare(self._connect) if ahead else None

    def close(self) -> None:
        """Hold nothing open from now on."""
        if self._spare is not None:
            self._spare.close()

    def apart(self) -> EngineClient:
        """Another client of the same engine, for who asks it about itself.

        What comes through this one is taken for the engine's work (`engine/stall.py`): one that stands still would
        seem to move at each look at its metrics.
        """
        return EngineClient(Path(self._path))

    @property
    def awaited(self) -> int:
        """How many exchanges wait for bytes of the engine; one that its reader keeps waiting does not count."""
        return sum(answer.awaited for answer in self._open)

    async def in_use(self) -> None:
        """Wait until there is an exchange."""
        await self._in_use.wait()

    @property
    def is_in_use(self) -> bool:
        """Whether there is an exchange."""
        return self._in_use.is_set()

    def closed(self, answer: EngineAnswer) -> None:
        """A connection is gone, or given up (for EngineAnswer); may be told twice."""
        self._open.discard(answer)
        if not self._open:
            self._in_use.clear()

    def post(self, path: str, headers: Iterable[Header], body: bytes) -> _Exchange:
        """`async with` it: entering sends the request and waits for the headers, leaving ends the exchange.

        Raises EngineUnreachable, and EngineLost.
        """
        lines = [b"POST ", path.encode("latin-1"), b" HTTP/1.1\r\nhost: engine\r\n"]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"content-length: %d\r\n\r\n" % len(body))
        return _Exchange(self, b"".join(lines), body)

    def get(self, path: str) -> _Exchange:
        """As `post`."""
        return _Exchange(self, b"GET %b HTTP/1.1\r\nhost: engine\r\n\r\n" % path.encode("latin-1"), b"")

    async def connect(self) -> EngineAnswer:
        """A connection of one's own. Raises EngineUnreachable."""
        connection = self._spare.take() if self._spare is not None else None
        if connection is None:
            connection = await self._connect()
        self._open.add(connection)
        self._in_use.set()
        return connection

    def begun(self) -> None:
        """An answer has begun (for an exchange)."""
        if self._spare is not None:
            self._spare.renew()

    async def _connect(self) -> EngineAnswer:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                loop = asyncio.get_running_loop()
                while True:
                    try:
                        _, connection = await loop.create_unix_connection(lambda: EngineAnswer(self), self._path)
                        break
                    except BlockingIOError:
                        # As many wait to be accepted as the engine's socket has places: it lives, and is behind.
                        await asyncio.sleep(BACKLOG_RETRY_S)
        except OSError as e:
            raise EngineUnreachable(str(e) or "no connection") from e
        return connection


class _Exchange:
    def __init__(self, client: EngineClient, head: bytes, body: bytes) -> None:
        self._client = client
        self._head = head
        self._body = body
        self._connection: EngineAnswer | None = None

    async def __aenter__(self) -> EngineAnswer:
        connection = self._connection = await self._client.connect()
        try:
            connection.ask(self._head, self._body)
            await connection.head()
        except BaseException:
            connection.abort()
            raise
        self._client.begun()
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.abort()
