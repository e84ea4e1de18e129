"""Of an engine's routes, clients reach those that answer prompts, and no other by any spelling."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from arena_server.api.inference import INFERENCE_PATHS
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import until
from tests.support.leases import use
from tests.support.raw_client import Cut, connected, once, post

BODY = b'{"model": "alpha", "prompt": "a"}'
JSON = ("Content-Type", "application/json")

# vLLM's other routes, development mode's among them (0.24 to 0.33).
CONTROL = [
    "/abort_requests",
    "/collective_rpc",
    "/docs",
    "/get_world_size",
    "/inference/v1/generate",
    "/init_weight_transfer_engine",
    "/invocations",
    "/is_paused",
    "/is_scaling_elastic_ep",
    "/is_sleeping",
    "/load",
    "/pause",
    "/ping",
    "/reset_encoder_cache",
    "/reset_mm_cache",
    "/reset_prefix_cache",
    "/resume",
    "/scale_elastic_ep",
    "/server_info",
    "/sleep",
    "/start_profile",
    "/stop_profile",
    "/tokenizer_info",
    "/update_weights",
    "/v1/load_lora_adapter",
    "/v1/realtime",
    "/v1/responses/resp-1",
    "/v1/responses/resp-1/cancel",
    "/v1/unload_lora_adapter",
    "/version",
    "/wake_up",
]

TRICKS = [
    "//sleep",
    "///sleep",
    "/./sleep",
    "/v1/../sleep",
    "/v1/completions/../../sleep",
    "/v1/completions/%2e%2e/%2e%2e/sleep",
    "/v1/completions/..%2f..%2fsleep",
    "/v1/completions%2f..%2f..%2fsleep",
    "/v1/completions%3f/../../sleep",
    "/v1/completions%23/../../sleep",
    "/v1/completions;/../../sleep",
    "/v1/completions\\..\\..\\sleep",
    "/v1/completions%5c..%5c..%5csleep",
    "/v1/completions%00/../../sleep",
    "/v1/completions%0d%0a",
    "/v1/completions%20",
    "/v1/completions/sleep",
    "/v1/models/../../sleep",
    "/v1/models/..%2f..%2fsleep",
    "/V1/COMPLETIONS",
    "/sleep/",
    "/sleep?level=1",
    "/sleep%3flevel=1",
    "/%73leep",
    "/%2573leep",
    "/sleep%00",
    "/sleep;",
    "/sleep#/v1/completions",
    "http://localhost/sleep",
    "http://localhost/v1/completions/../../sleep",
    "http://engine/sleep",
    "*",
    "/health/../sleep",
]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[FakeDaemon]:
    async with running_daemon() as running:
        await use(running, "alpha")
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def daemon(shared: FakeDaemon) -> FakeDaemon:
    """Its model alpha is awake, and has not been asked anything."""
    shared.engines["alpha"].requests.clear()
    return shared


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
async def test_no_control_route_of_an_engine_is_there(daemon: FakeDaemon, method: str) -> None:
    async with connected(daemon.port) as client:
        for path in CONTROL:
            client.request(method, path, BODY, [JSON])
            assert (await client.answer(method)).status in (404, 405), path
    assert daemon.engines["alpha"].requests == []


@pytest.mark.parametrize("path", TRICKS)
async def test_no_spelling_leads_from_an_open_route_to_another(daemon: FakeDaemon, path: str) -> None:
    for method in ("POST", "GET"):
        answer = await once(daemon.port, method, path, BODY, [JSON])
        assert answer.status in (400, 404, 405)
    assert daemon.engines["alpha"].requests == []


@pytest.mark.parametrize(
    "query", ["x=/../../sleep", "/../../sleep", "?/sleep", "x=%0d%0aPOST%20/sleep", "x=http://engine/sleep", "a=1#b"]
)
async def test_no_query_leads_to_another_route(daemon: FakeDaemon, query: str) -> None:
    answer = await once(daemon.port, "POST", f"/v1/completions?{query}", BODY, [JSON])
    assert answer.status == 200
    (request,) = daemon.engines["alpha"].requests
    assert request.path.partition("?")[0] == "/v1/completions"


@pytest.mark.parametrize(
    "host", ["x/sleep?", "engine/sleep#", "x\\sleep?", "x/../../sleep?", "@engine/sleep?", "engine:80/sleep?"]
)
async def test_no_host_leads_to_another_route(daemon: FakeDaemon, host: str) -> None:
    await once(daemon.port, "POST", "/v1/completions", BODY, [JSON, ("Host", host)])
    assert {r.path for r in daemon.engines["alpha"].requests} <= {"/v1/completions"}


async def test_a_trailing_line_end_is_no_way_around_the_list(daemon: FakeDaemon) -> None:
    await once(daemon.port, "POST", "/v1/completions%0a", BODY, [JSON])
    assert {r.path for r in daemon.engines["alpha"].requests} <= {"/v1/completions"}


async def test_a_second_request_hidden_in_a_body_is_not_seen_as_one(daemon: FakeDaemon) -> None:
    hidden = b"POST /sleep HTTP/1.1\r\nHost: engine\r\nContent-Length: 0\r\n\r\n"
    async with connected(daemon.port) as client:
        smuggled = [JSON, ("Transfer-Encoding", "chunked"), ("Content-Length", "4")]
        client.request("POST", "/v1/completions", b"0\r\n\r\n" + hidden, smuggled)
        assert (await client.answer()).status == 400
    await post(daemon.port, "/v1/completions", {"model": "alpha", "prompt": hidden.decode()})
    assert [r.path for r in daemon.engines["alpha"].requests] == ["/v1/completions"]


@pytest.mark.parametrize("value", [b"a\x01b", b"a\x0bb", b"a\x7fb", b"a\tb", b"\xe9\xff", b"", b"x" * 8000], ids=repr)
async def test_a_header_of_odd_bytes_is_refused_or_taken_and_never_a_defect(
    daemon: FakeDaemon, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(daemon.port) as client:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nX-Odd: %b\r\n\r\n"
        client.send(head % (len(BODY), value) + BODY)
        assert (await client.answer()).status in (200, 400)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("query", [b"\xff", b"x=\xc3\xa9", b"%ff", b"%zz"], ids=repr)
async def test_a_query_of_odd_bytes_is_refused_or_taken_and_never_a_defect(
    daemon: FakeDaemon, query: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(daemon.port) as client:
        head = b"POST /v1/completions?%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        client.send(head % (query, len(BODY)) + BODY)
        assert (await client.answer()).status in (200, 400)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("method", ["POST", "CONNECT"])
async def test_a_target_that_names_a_host_alone_reaches_nothing(daemon: FakeDaemon, method: str) -> None:
    async with connected(daemon.port) as client:
        client.request(method, "engine:80", BODY, [JSON])
        with contextlib.suppress(Cut):
            assert (await client.answer()).status in (400, 404, 405)
    assert daemon.engines["alpha"].requests == []


async def test_every_route_of_the_list_reaches_the_engine_under_its_own_name(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    for path in INFERENCE_PATHS:
        if path == "/v1/audio/transcriptions":
            continue  # its body is no JSON
        body = {"model": "alpha", "prompt": "a", "messages": [{"role": "user", "content": "a"}]}
        assert (await post(daemon.port, path, body)).status == 200
        await until(lambda: alpha.requests[-1].finished, "the engine to be done")
        assert alpha.requests[-1].path == path
