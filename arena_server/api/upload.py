"""Request bodies on their way in: each within its limit, all together within a memory, and none for ever.

`Uploads` stands before the whole application, so no route can forget it. What a request has sent counts until the
request is done: the relay keeps it that long, to ask another engine with it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import MappingProxyType

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arena_server.api.http_exchange import exchange_of
from arena_server.errors import ArenaError, BodyTooLarge

# A body no larger than this may use what is left when large ones have filled their part of the memory.
SMALL_BYTES = 64 << 10
SMALL_PART = 8  # one in so many bytes of the memory is for them alone
# What has to come within each `server.body_timeout_s`: a byte a second is not a client with a slow line.
LEAST_BYTES = 4096
RETRY_AFTER_S = 5.0


class BodyTooSlow(ArenaError):
    """The request body came to a stop. After half a body nothing else can come on the connection."""

    headers = MappingProxyType({"connection": "close"})
    status = 408
    kind = "invalid_request_error"
    code = "request_timeout"


class BodyMemoryFull(ArenaError):
    """All request bodies together are over `server.body_memory_bytes`."""

    status = 503
    kind = "service_unavailable_error"
    code = "body_memory_full"


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """`most_bytes` of one body, `memory_bytes` of all; `timeout_s` is what `LEAST_BYTES` of one may take."""

    most_bytes: int
    memory_bytes: int
    timeout_s: float


async def read_body(receive: Receive, most_bytes: int | None = None) -> bytes:
    """The whole body. Raises ClientDisconnect and what `Uploads` raises.

    `most_bytes` is for routes that take less than the server does; over it, BodyTooLarge.
    """
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if most_bytes is not None and len(body) > most_bytes:
            raise BodyTooLarge(f"The request body is over {most_bytes} bytes.")
        more = message.get("more_body", False)
    return bytes(body)


class Uploads:
    """All bodies that are in memory."""

    def __init__(self, limits: UploadLimits) -> None:
        self.limits = limits
        self.held_bytes = 0

    def before(self, app: ASGIApp) -> ASGIApp:
        """The application, which reads bodies within these limits. Over them `receive` raises an ArenaError."""

        async def limited(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            upload = _Upload(self, scope, receive)
            try:
                await app(scope, upload.receive, send)
            finally:
                self.held_bytes -= upload.size_bytes

        return limited

    def take(self, more: int, size: int) -> None:
        """Hold `more` bytes of a body that has `size` with them. Raises BodyTooLarge and BodyMemoryFull."""
        limits = self.limits
        if size > limits.most_bytes:
            raise BodyTooLarge(f"The request body is over {limits.most_bytes} bytes (server.max_body_bytes).")
        most = limits.memory_bytes
        if size > SMALL_BYTES:
            most -= most // SMALL_PART
        if self.held_bytes + more > most:
            raise BodyMemoryFull(
                "The server has no memory for more request bodies now (server.body_memory_bytes).",
                retry_after_s=RETRY_AFTER_S,
            )
        self.held_bytes += more


class _Upload:
    """One request's body."""

    def __init__(self, uploads: Uploads, scope: Scope, receive: Receive) -> None:
        self.size_bytes = 0
        self._uploads = uploads
        self._scope = scope
        self._receive = receive
        self._whole = False
        self._deadline: float | None = None
        self._due_bytes = 0  # what has to be here by then

    async def receive(self) -> Message:
        """The next message. Raises BodyTooLarge (before anything is read, if the length is declared), BodyMemoryFull
        and BodyTooSlow.
        """
        if self._whole:
            return await self._receive()
        exchange = exchange_of(self._scope)
        if exchange is not None and exchange.has_body:
            message = await self._receive()
        else:
            message = await self._receive_in_time()
        self._whole = not message.get("more_body", False)
        more = len(message.get("body", b""))
        self._uploads.take(more, self.size_bytes + more)
        self.size_bytes += more
        return message

    async def _receive_in_time(self) -> Message:
        if self._deadline is None:
            self._check_declared()
        if self._deadline is None or self.size_bytes >= self._due_bytes:
            self._deadline = asyncio.get_running_loop().time() + self._uploads.limits.timeout_s
            self._due_bytes = self.size_bytes + LEAST_BYTES
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            raise BodyTooSlow(
                f"Less than {LEAST_BYTES} bytes of the request body, and not its end, came within "
                f"{self._uploads.limits.timeout_s:g} s (server.body_timeout_s)."
            ) from None

    def _check_declared(self) -> None:
        for name, value in self._scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._uploads.limits.most_bytes:
                self._uploads.take(0, int(value))
