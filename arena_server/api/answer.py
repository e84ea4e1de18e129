"""What a client has of its answer so far, and how it goes on: bytes as they come, notices, or an error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from starlette.types import Send

from arena_server.api.errors import error_event
from arena_server.api.http_exchange import HttpExchange
from arena_server.api.token_counter import TokenCounter
from arena_server.engine.failures import refused
from arena_server.errors import ArenaError, EngineRefused
from arena_server.pool.outlook import Outlook

LONGEST_LINE_BYTES = 1 << 20
LONGEST_REFUSAL_BYTES = 64 << 10

# An engine tells of an error in mid-stream in an event of its own. No model can write what is looked for: within JSON,
# quotes and line ends are escaped.
TELLS_ERROR = re.compile(rb'^(?:data:[ \t]*\{\s*"error"\s*:\s*(?!null)|event:[ \t]*error\r?$)', re.MULTILINE)

# RFC 9110, 7.6.1: these speak of one connection, not of the message.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
# Which model has answered: another than was asked, of an alias or in a failed one's place.
SERVED_BY = b"x-arena-served-by"
# The daemon and its server put their own.
KEPT_FROM_CLIENT = HOP_BY_HOP | {b"server", b"date", SERVED_BY}
# Of a stream that begins before the engine's answer: as vLLM's own are, and not to be gathered by nginx on its way.
STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

Header = tuple[bytes, bytes]
# The HTTP status, and an error's code if it ended with one.
Outcome = tuple[int, str | None]


def end_to_end(headers: Iterable[Header], left_out: frozenset[bytes]) -> list[Header]:
    """The headers that travel on: without `left_out` and those that Connection names. Names come in lower case."""
    kept = []
    named: set[bytes] = set()
    for written, value in headers:
        name = written.lower()
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
        if name not in left_out:
            kept.append((name, value))
    return [(name, value) for name, value in kept if name not in named] if named else kept


class Answer:
    """One answer on its way to a client."""

    def __init__(self, send: Send, route: str, counter: TokenCounter, exchange: HttpExchange | None = None) -> None:
        """`route` decides in which dialect an error is told within a stream; `counter` sees all that goes by.

        Pieces of the body may leave by `exchange`, past `send`; not where somebody beside the client has to see them.
        """
        self._send = send
        self._exchange = exchange
        self._route = route
        self.counter = counter
        self.outcome: Outcome = (500, None)  # as the client sees it, so far
        self._started = False
        self._stream = False
        self._rest = b""
        self._refusal: bytearray | None = None  # the engine's, where the stream had begun already
        self._refusal_status = 0

    async def notice(self, outlook: Outlook) -> None:
        """Tell somebody who waits what for; the stream begins with it, if it has not."""
        if not self._started:
            self._started = self._stream = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(STREAM_HEADERS)})
        await self.comment(f"{outlook.phase}, place {outlook.place} in the queue, about {math.ceil(outlook.eta_s)} s")

    async def comment(self, text: str) -> None:
        """Say something that clients ignore (WHATWG HTML, 9.2.6), in a stream that has begun; else nothing."""
        if self._started and self._stream:
            await self._body(f": {text}\n\n".encode())

    async def start(self, status: int, headers: Iterable[Header], model: str) -> None:
        """Begin with the status and headers of this model's engine, unless a notice came before."""
        self.outcome = (status, None)
        kept = end_to_end(headers, KEPT_FROM_CLIENT)
        stream = any(n == b"content-type" and v.startswith(b"text/event-stream") for n, v in kept)
        if self._started:
            if status != 200 or not stream:
                self._refusal, self._refusal_status = bytearray(), status
            return
        self._started, self._stream = True, stream
        if stream:
            kept = [(name, value) for name, value in kept if name != b"content-length"]  # what is taken out is missing
        kept.append((SERVED_BY, model.encode("latin-1")))
        await self._send({"type": "http.response.start", "status": status, "headers": kept})

    async def add(self, chunk: bytes) -> None:
        """Send on what has come."""
        if self._refusal is not None:
            self._refusal += chunk[: LONGEST_REFUSAL_BYTES - len(self._refusal)]
            return
        await self._body(self._for_client(chunk))

    def add_at_once(self, chunk: bytes) -> bool:
        """As `add`, without waiting. False if that cannot be now: then nothing has happened."""
        exchange = self._exchange
        if exchange is None or self._refusal is not None or not exchange.takes_body:
            return False
        if some := self._for_client(chunk):
            exchange.write(some)
        return True

    async def finish(self) -> None:
        """End, all being well."""
        if self._refusal is not None:
            refusal, self._refusal = bytes(self._refusal), None
            await self.fail(refused(self._refusal_status, refusal))
            return
        last = self.counter.rest() + self._rest
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def fail(self, error: ArenaError) -> None:
        """End with an error: as the response if nothing has left yet, as an event in a stream.

        Any other answer that has begun is left incomplete, on which the server closes the connection: the client sees
        that it is cut, and cannot take it for whole. Raises the error if nothing has left.
        """
        self.outcome = (error.status, error.code)
        if not self._started:
            raise error
        if self._stream:
            self._rest, self._refusal = b"", None
            await self._body(self.counter.rest() + error_event(error, self._route))
            await self.finish()

    def _for_client(self, chunk: bytes) -> bytes:
        """What goes on to the client of what has come.

        In a stream of events the beginning of a line waits for the rest of it (the engine writes whole lines, so this
        is rare): if the engine dies there, half a line and then an error event would be neither to the client.
        """
        if not self._stream:
            self.counter.look(chunk)
            return chunk
        if self._rest or not chunk.endswith(b"\n"):
            lines, newline, rest = (self._rest + chunk).rpartition(b"\n")
            if len(rest) > LONGEST_LINE_BYTES:
                lines, newline, rest = lines + newline + rest, b"", b""
            chunk, self._rest = lines + newline, rest
        if not chunk:
            return chunk
        # Of whole lines: the event may have come in pieces.
        if b"error" in chunk and TELLS_ERROR.search(chunk) is not None:
            self.outcome = (EngineRefused.status, EngineRefused.code)
        return self.counter.take(chunk)

    async def _body(self, some: bytes) -> None:
        if some:
            await self._send({"type": "http.response.body", "body": some, "more_body": True})
