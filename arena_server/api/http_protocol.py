"""A connection of the public port: uvicorn's, with the limits that it leaves to whoever stands in front of it.

Without them a client could hold a connection for ever with half a request head, fill the memory with a head or a
trailer that never ends (the parser, llhttp, has no limits either), hold a model awake by not reading its answer, and
take the last file descriptor, without which no engine can be asked.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Callable

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from arena_server.api.http_exchange import exchange_of, extension
from arena_server.errors import ArenaError, BadRequest
from arena_server.request_id import new_request_id

HEAD_TIMEOUT_S = 60.0  # nginx's client_header_timeout
MOST_HEAD_BYTES = 64 << 10  # nginx has 32 KiB by default, Node.js 16
MOST_PIPELINED = 100  # one read could bring 10,000 requests else
UNREAD_TIMEOUT_S = 60.0  # nginx's send_timeout
# A connection closed with bytes unread is reset, upon which the client may lose the answer that says why.
LINGER_S = 2.0


class HeadTooLarge(ArenaError):
    """The request's head, or what follows its body, is over `MOST_HEAD_BYTES` (RFC 6585, 5)."""

    status = 431
    kind = "invalid_request_error"
    code = "headers_too_large"


class HeadTooSlow(ArenaError):
    """The request's head was not whole within `HEAD_TIMEOUT_S`."""

    status = 408
    kind = "invalid_request_error"
    code = "request_timeout"


class TooManyConnections(ArenaError):
    """There are as many connections as the process has file descriptors for."""

    status = 503
    kind = "service_unavailable_error"
    code = "too_many_connections"


class HttpProtocol(HttpToolsProtocol):
    """See above. `limit_concurrency` of uvicorn's configuration is the most connections at a time; None: no limit."""

    _timer: asyncio.TimerHandle | None = None  # what the connection has to do next has to be done by then
    _unread_timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None  # uvicorn's `cycle` is the last one, which may wait behind it
    _refused = False
    _fault: ArenaError | None = None
    _in_head = False
    _in_message = False  # in its head or its body
    _marks = 0  # heads and pieces of bodies that have come
    _loose_bytes = 0  # that came since, of a head or a trailer that is not whole
    _read = b""  # what is looked at

    @property
    def _is_busy(self) -> bool:
        return self._running is not None and not self._running.response_complete

    # The transport's

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency - 1:
            self.connections.discard(self)  # uvicorn would count it against the requests of the others
            self._refuse(TooManyConnections("The server has all the connections it can hold.", retry_after_s=1))
        else:
            self._set_timer(HEAD_TIMEOUT_S, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._set_timer()
        self._watch_unread(stop=True)
        self._unset_keepalive_if_required()
        if self._running is not None:  # uvicorn tells the last one only
            self._end_cycle(self._running)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._refused:
            return
        marks, self._read = self._marks, data
        super().data_received(data)
        self._read = b""
        if self._refused or self.transport.is_closing():
            return
        grown = self._marks == marks
        self._loose_bytes = self._loose_bytes + len(data) if grown else 0
        if self._loose_bytes > MOST_HEAD_BYTES:
            self._refuse(_too_large())
        elif self._is_busy:
            self._set_timer()
        elif self._in_message or grown:
            # Of a head, or of a body whose request was refused before it was whole.
            if self._timer is None:
                self._set_timer(HEAD_TIMEOUT_S, self._too_late)
        else:
            self._set_timer()
            self._wait_for_the_next()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        self._watch_unread(stop=True)

    # The parser's

    def on_message_begin(self) -> None:
        """A request's first byte."""
        if len(self.pipeline) >= MOST_PIPELINED:
            self._fault = BadRequest(f"More than {MOST_PIPELINED} requests at once on one connection.")
            raise self._fault
        self._in_message = self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        if self._loose_bytes + len(self._read) > MOST_HEAD_BYTES:  # else the head is no larger either
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MOST_HEAD_BYTES:
                self._fault = _too_large()
                raise self._fault
        self._marks += 1
        self._in_head = False
        was_busy = self._is_busy
        super().on_headers_complete()
        self.scope["extensions"] = extension(self.cycle)
        if not was_busy:
            self._running = self.cycle
        self.headers = []  # what trailers there are come into this one, and not among the request's

    def on_body(self, body: bytes) -> None:
        """A piece of a request's body."""
        self._marks += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request's last byte."""
        self._marks += 1
        self._in_message = False
        super().on_message_complete()

    # uvicorn's

    def on_response_complete(self) -> None:
        """Go on with the next request that is here."""
        following = self.pipeline[-1][0] if self.pipeline else None
        if self._running is not None:
            # It refers back to the request: else each would wait for the garbage collector.
            self._running.scope.pop("extensions", None)
        super().on_response_complete()
        if following is not None:
            self._running = following
        if self.transport.get_write_buffer_size():
            self._watch_unread()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one whose client has not read its last answer would never be done closing."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(self._fault or BadRequest("The request is not valid HTTP/1.1."))

    def _unsupported_upgrade_warning(self) -> None:
        """Leave the upgrade out (RFC 9110, 7.8), and read the request on to its end, which is the connection's.

        The parser takes what follows the head for another protocol; but Java's HttpClient asks for HTTP/2 with each
        request, and sends the body in HTTP/1.1 at once.
        """
        upgrade = sys.exc_info()[1]
        assert isinstance(upgrade, httptools.HttpParserUpgrade), "uvicorn handles one"
        self.cycle.keep_alive = False
        self.cycle.more_body = True
        framing = [h for h in self.cycle.scope["headers"] if h[0] in (b"content-length", b"transfer-encoding")]
        self.parser = httptools.HttpRequestParser(_Rest(self))
        try:
            self.parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *(b"%b: %b\r\n" % h for h in framing), b"\r\n"]))
            self.parser.feed_data(self._read[upgrade.args[0] :])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.send_400_response("")

    # Inside

    def _refuse(self, error: ArenaError) -> None:
        """Say why, then close. To who waits for another answer, or is in the midst of one, nothing can be said."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._unset_keepalive_if_required()
        running = self._running if self._is_busy else None
        if running is not None:
            self._end_cycle(running)
            if running.response_started or not running.more_body:
                self.transport.abort()
                return
        self.transport.write(_refusal(error))
        self.transport.write_eof()
        self._set_timer(LINGER_S, self.transport.abort)

    def _end_cycle(self, cycle: RequestResponseCycle) -> None:
        if not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if (exchange := exchange_of(cycle.scope)) is not None:
                exchange.left()

    def _too_late(self) -> None:
        if self._in_head:
            self._refuse(HeadTooSlow(f"The head of the request did not come within {HEAD_TIMEOUT_S:g} s."))
        else:  # nobody has asked anything, or the answer is there and it is a refused body that has no end
            self.transport.abort()

    def _wait_for_the_next(self) -> None:
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _set_timer(self, delay_s: float = 0, then: Callable[[], None] | None = None) -> None:
        """Instead of the one that runs, if any; none without `then`."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if then is None else self.loop.call_later(delay_s, then)

    def _watch_unread(self, *, stop: bool = False) -> None:
        """Cut the connection once the client has taken nothing of what waits for it for `UNREAD_TIMEOUT_S`."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        before = 0 if stop else self.transport.get_write_buffer_size()
        if not before:
            return

        def look() -> None:
            if self.transport.get_write_buffer_size() >= before:
                self.transport.abort()
            else:
                self._watch_unread()

        self._unread_timer = self.loop.call_later(UNREAD_TIMEOUT_S, look)


class _Rest:
    """Of a request whose head is known, for the parser."""

    def __init__(self, protocol: HttpProtocol) -> None:
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(f"The head of the request is over {MOST_HEAD_BYTES} bytes.")


def _refusal(error: ArenaError) -> bytes:
    """An answer that ends the connection, in OpenAI's form like all others."""
    body = json.dumps(error.body()).encode()
    lines = [
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
        b"x-request-id: " + new_request_id().encode(),
    ]
    if error.retry_after_s is not None:
        lines.append(b"retry-after: %d" % math.ceil(error.retry_after_s))
    return STATUS_LINE[error.status] + b"\r\n".join([*lines, b"", body])
