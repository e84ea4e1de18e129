"""A server's HTTP/1.1 connection with next to no cost of its own, for the stand-ins: whole requests, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

# Answers a request, of which path and body are given, by writing to the connection, now or later.
Respond = Callable[[asyncio.Transport, bytes, bytes], None]


class HttpConnection(asyncio.Protocol):
    """One connection, kept alive (httptools calls the `on_` methods)."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._path = self._body = b""

    def on_url(self, url: bytes) -> None:
        """A piece of its path."""
        self._path += url

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._body += body

    def on_message_complete(self) -> None:
        """It is whole."""
        self._respond(self._transport, self._path, self._body)
