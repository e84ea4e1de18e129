"""The stand-ins' connection takes whole requests, however they come, and no others."""

from __future__ import annotations

import asyncio

import pytest

from bench.http_connection import HttpConnection

REQUESTS = (
    b"POST /first HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
    b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n"
    b"POST /third HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
)


class Wire(asyncio.Transport):
    """What a connection writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def close(self) -> None:
        self.closed = True


def connected() -> tuple[HttpConnection, Wire, list[tuple[bytes, bytes]]]:
    """A connection, its wire, and the requests it has had, of which it answers none."""
    asked: list[tuple[bytes, bytes]] = []
    wire = Wire()

    def respond(transport: asyncio.Transport, path: bytes, body: bytes) -> None:
        assert transport is wire
        asked.append((path, body))

    connection = HttpConnection(respond)
    connection.connection_made(wire)
    return connection, wire, asked


@pytest.mark.parametrize("size", [1, 7, len(REQUESTS)])
def test_requests_are_taken_whole_one_after_the_other(size: int) -> None:
    connection, wire, asked = connected()
    for start in range(0, len(REQUESTS), size):
        connection.data_received(REQUESTS[start : start + size])
    assert asked == [(b"/first", b"body"), (b"/second", b""), (b"/third", b"abc")]
    assert not wire.closed


def test_what_is_no_http_ends_the_connection() -> None:
    connection, wire, asked = connected()
    connection.data_received(b"\x16\x03\x01 this is TLS\r\n\r\n")
    assert wire.closed
    assert asked == []
