"""What nginx refuses before it has read it whole: in OpenAI's form, too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.nginx.recorder import Recorder, recording
from tests.nginx.site import Certificates, nginx
from tests.support.raw_client import Answer, RawClient, connected

HOST = "Host: localhost\r\n"
LONG = "a" * 9000


@pytest.fixture
async def upstream() -> AsyncIterator[Recorder]:
    """Nothing of all this reaches it."""
    async with recording() as running:
        yield running
        assert running.targets == []


async def answer_to(client: RawClient, request: str) -> Answer:
    client.send(request.encode("latin-1"))
    return await client.answer()


MALFORMED = {
    "no host": ("GET /v1/models HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "two hosts": (f"GET /v1/models HTTP/1.1\r\n{HOST}{HOST}\r\n", 400, "bad_request"),
    "no path": (f"GET v1/models HTTP/1.1\r\n{HOST}\r\n", 400, "bad_request"),
    "a path with a zero": (f"GET /v1/a%00b HTTP/1.1\r\n{HOST}\r\n", 400, "bad_request"),
    "above the root": (f"GET /../x HTTP/1.1\r\n{HOST}\r\n", 400, "bad_request"),
    "no method": (f"get /v1/models HTTP/1.1\r\n{HOST}\r\n", 400, "bad_request"),
    "no HTTP": ("hello\r\n\r\n", 400, "bad_request"),
    "a header that is too long": (f"GET /v1/models HTTP/1.1\r\n{HOST}X-A: {LONG}\r\n\r\n", 400, "bad_request"),
    "two lengths": (
        f"POST /v1/x HTTP/1.1\r\n{HOST}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, "bad_request"
    ),
    "no length": (f"POST /v1/x HTTP/1.1\r\n{HOST}Content-Length: -1\r\n\r\n", 400, "bad_request"),
    "length and chunks": (
        f"POST /v1/x HTTP/1.1\r\n{HOST}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400, "bad_request",
    ),
    "a method of HTTP's": (f"TRACE /v1/models HTTP/1.1\r\n{HOST}\r\n", 405, "method_not_allowed"),
    "a path that is too long": (f"GET /v1/{LONG} HTTP/1.1\r\n{HOST}\r\n", 414, "uri_too_long"),
    "an encoding": (f"POST /v1/x HTTP/1.1\r\n{HOST}Transfer-Encoding: gzip\r\n\r\n", 501, "not_implemented"),
    "a version": (f"GET /v1/models HTTP/3.0\r\n{HOST}\r\n", 505, "http_version"),
}  # fmt: skip


async def test_a_chunk_that_is_none(tmp_path: Path, certificates: Certificates) -> None:
    """By then the daemon may have the request's head already."""
    async with recording() as upstream:
        with nginx(tmp_path, upstream.port, certificates) as proxy:
            async with proxy.connected() as client:
                answer = await answer_to(
                    client, f"POST /v1/x HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\nzz\r\n"
                )
    assert (answer.status, answer.error()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("what", MALFORMED)
async def test_refusals_of_what_cannot_be_read(
    what: str, upstream: Recorder, tmp_path: Path, certificates: Certificates
) -> None:
    request, status, code = MALFORMED[what]
    with nginx(tmp_path, upstream.port, certificates) as proxy:
        async with proxy.connected() as client:
            answer = await answer_to(client, request)
    assert answer.status == status
    assert answer.error()["code"] == code
    assert answer.header("x-request-id")


async def test_http_on_the_port_of_https(upstream: Recorder, tmp_path: Path, certificates: Certificates) -> None:
    with nginx(tmp_path, upstream.port, certificates) as proxy:
        async with connected(proxy.port) as client:
            answer = await answer_to(client, f"GET /v1/models HTTP/1.1\r\n{HOST}\r\n")
    assert (answer.status, answer.error()["code"]) == (400, "bad_request")


async def test_the_pages_of_refusals_cannot_be_asked_for(
    upstream: Recorder, tmp_path: Path, certificates: Certificates
) -> None:
    names = ("bad-request", "method", "long-path", "encoding", "version")
    with nginx(tmp_path, upstream.port, certificates) as proxy:
        answers = [await proxy.get(f"/arena-refused/{name}") for name in names]
    assert {(a.status, a.error()["code"]) for a in answers} == {(404, "not_found")}


async def test_an_address_that_is_not_allowed_learns_no_more(
    upstream: Recorder, tmp_path: Path, certificates: Certificates
) -> None:
    with nginx(tmp_path, upstream.port, certificates) as proxy:
        async with proxy.connected("127.0.0.2") as client:
            answer = await answer_to(client, f"GET /v1/models HTTP/1.1\r\n{HOST}\r\n")
    assert (answer.status, answer.error()["code"]) == (403, "forbidden")
