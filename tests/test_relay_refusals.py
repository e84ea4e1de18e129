"""Requests that reach no engine: each is refused in OpenAI's form, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from arena_server.pool.residency import Residency
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.raw_client import connected, once, post

PATH = "/v1/completions"
LIMIT = 1000
JSON = [("Content-Type", "application/json")]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[FakeDaemon]:
    async with running_daemon(server={"max_body_bytes": LIMIT}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def daemon(shared: FakeDaemon) -> AsyncIterator[FakeDaemon]:
    """Checks that the pool and the engines were left alone."""
    yield shared
    assert all(v.residency is Residency.COLD for v in shared.pool.view().models)
    assert all(not e.requests and not e.loads for e in shared.engines.values())
    assert not shared.pool._core.queue
    assert not shared.pool._core.leases


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not JSON",
        b'{"model": "alpha"',
        b'{"model": "alpha"} extra',
        b'{"model": "al\xff"}',
        b'{"model": "\\ud800"}',
        b"\xff\xfe{\x00}\x00",
        b'{"x": ' + b"[" * 900,
        b'{"model": "alpha", "x": ' + b"[" * 400 + b"]" * 400 + b"}",
    ],
)
async def test_a_body_that_is_no_json(daemon: FakeDaemon, body: bytes) -> None:
    answer = await once(daemon.port, "POST", PATH, body, JSON)
    assert answer.status == 400
    error = answer.error()
    assert error["message"].startswith("We could not parse the JSON body of your request: ")
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)


async def test_a_hundred_thousand_brackets() -> None:
    async with running_daemon() as daemon:
        for body in (b"[" * 100_000, b'{"model": "alpha", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
            answer = await once(daemon.port, "POST", PATH, body, JSON)
            assert answer.status == 400
            assert "recursion limit" in answer.error()["message"]
        assert daemon.engines["alpha"].loads == 0


@pytest.mark.parametrize("body", [b"[]", b'"alpha"', b"null", b"1", b"true", b'["model", "alpha"]', b"NaN"])
async def test_a_body_that_is_no_object(daemon: FakeDaemon, body: bytes) -> None:
    answer = await once(daemon.port, "POST", PATH, body, JSON)
    assert answer.status == 400
    assert answer.error() == {
        "message": "The JSON body of your request must be an object.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize("body", [{}, {"prompt": "x"}, {"model": ""}, {"model": None}, {"Model": "alpha"}])
async def test_no_model(daemon: FakeDaemon, body: object) -> None:
    answer = await post(daemon.port, PATH, body)
    assert answer.status == 400
    assert answer.error() == {
        "message": "You must provide a model parameter.",
        "type": "invalid_request_error",
        "param": "model",
        "code": None,
    }


@pytest.mark.parametrize("model", [1, 1.5, True, False, [], ["alpha"], {}, {"alpha": 1}, 0])
async def test_a_model_that_is_no_text(daemon: FakeDaemon, model: object) -> None:
    answer = await post(daemon.port, PATH, {"model": model})
    assert answer.status == 400
    assert answer.error() == {
        "message": "`model` must be a string.",
        "type": "invalid_request_error",
        "param": "model",
        "code": None,
    }


@pytest.mark.parametrize(
    "model",
    ["nobody", "ALPHA", " alpha", "alpha ", "org", "org/gamma/", "alpha\x00", "é" * 50, "../alpha", "x\r\ny"],
)
async def test_a_model_that_does_not_exist(daemon: FakeDaemon, model: str) -> None:
    answer = await post(daemon.port, PATH, {"model": model})
    assert answer.status == 404
    assert answer.error() == {
        "message": f"The model `{model}` does not exist. Available models: `alpha`, `beta`, `org/gamma`, "
        "`gpt-4o`, `org/alias`.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


TOO_LARGE = {
    "message": f"The request body is over {LIMIT} bytes (server.max_body_bytes).",
    "type": "invalid_request_error",
    "param": None,
    "code": "body_too_large",
}


async def test_a_body_that_declares_itself_too_large_is_refused_before_it_is_sent(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        client.request("POST", PATH, b"", [*JSON, ("Content-Length", str(LIMIT + 1)), ("Expect", "100-continue")])
        answer = await client.answer()
    assert answer.status == 413
    assert answer.error() == TOO_LARGE


async def test_a_declared_length_beyond_all_numbers_is_refused(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        client.request("POST", PATH, b"", [("Content-Length", "9" * 19)])
        assert (await client.answer()).status == 413


async def test_a_body_that_grows_too_large_is_refused_as_soon_as_it_is(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        client.request("POST", PATH, b"", [*JSON, ("Transfer-Encoding", "chunked")])
        client.send(b"%x\r\n%b\r\n" % (LIMIT + 1, b" " * (LIMIT + 1)))
        answer = await client.answer()  # though the end of the body has not come
    assert answer.status == 413
    assert answer.error() == TOO_LARGE


async def test_after_a_body_that_is_too_large_the_connection_still_serves(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        for _ in range(2):
            client.request("POST", PATH, b" " * (1 << 20), JSON)
            assert (await client.answer()).status == 413
        client.request("GET", "/v1/models")
        assert (await client.answer()).status == 200


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    async with running_daemon(server={"max_body_bytes": LIMIT}) as daemon:
        head = b'{"model": "alpha", "prompt": "'
        body = head + b"x" * (LIMIT - len(head) - 2) + b'"}'
        assert (await once(daemon.port, "POST", PATH, body, JSON)).status == 200
        assert (await once(daemon.port, "POST", PATH, body + b" ", JSON)).status == 413
        assert len(daemon.engines["alpha"].requests) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
async def test_another_method_than_post(daemon: FakeDaemon, method: str, path: str) -> None:
    answer = await once(daemon.port, method, path)
    assert answer.status == 405
    assert answer.header("allow") == "POST"
    if method == "HEAD":
        assert answer.body == b""
    else:
        assert answer.error() == {
            "message": f"Method Not Allowed: {method} {path}",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }


async def test_a_path_that_does_not_exist(daemon: FakeDaemon) -> None:
    answer = await post(daemon.port, "/v1/nonsense", {"model": "alpha"})
    assert answer.status == 404
    assert answer.error() == {
        "message": "Not Found: POST /v1/nonsense",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize(
    "host", ["", "[", "[::1", "a b", "x/sleep?", "x/../sleep", "é", "user@host", "localhost:99999999", "x#"]
)
async def test_a_host_header_is_never_a_path(host: str) -> None:
    async with running_daemon(any_host=True) as daemon:
        for path, status in ((PATH, 404), ("/v1/nonsense", 404), ("/sleep", 404)):
            body = json.dumps({"model": "nobody"}).encode()
            answer = await once(daemon.port, "POST", path, body, [*JSON, ("Host", host)])
            assert answer.status in (status, 400)
            if answer.status == status:
                assert answer.error()["type"] == "invalid_request_error"
