"""A daemon with models that other servers run: the same routes, leases and views, no memory, and their health."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from arena_server.pool.residency import Residency
from tests.support.courses import Heard
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.forms import FORM, form
from tests.support.gate import until
from tests.support.raw_client import connected, once, post
from tests.support.remote_server import RemoteServer, remote_server
from tests.support.replies import Reply, stream, whole

CHAT = "/v1/chat/completions"
SERVED_BY = "x-arena-served-by"
LOCAL = {"model": "org/alpha", "gpu_memory_utilization": 0.4}
PARTS = [b'data: {"choices": [{"delta": {"content": "one"}}]}\n\n'] * 3


def ask(model: str = "far", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "one two three"}], **more}


@pytest.fixture
async def server() -> AsyncIterator[RemoteServer]:
    async with remote_server() as server:
        yield server


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def daemon(server: RemoteServer, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeDaemon]:
    """A local model, and a remote one in whose place it answers."""
    monkeypatch.setenv("FAR_KEY", "sk-far")
    monkeypatch.setattr("arena_server.pool.remotes.EVERY_S", 0.01)
    far = {
        "model": "org/there",
        "backend_url": server.url,
        "api_key_env": "FAR_KEY",
        "retries": 0,
        "fallback": ["alpha"],
        "aliases": ["gpt-4o", "org/there"],
    }
    models = {"alpha": LOCAL, "far": far}
    async with running_daemon(models, listeners=[heard], pool={"max_awake_models": 1}) as running:
        await until(lambda: running.view("far").residency is Residency.AWAKE, "far to be connected")
        yield running
        await running.come_to_rest()
    heard.check()


async def model_health(daemon: FakeDaemon, name: str) -> dict[str, Any]:
    """Its part of `/health`."""
    found: dict[str, Any] = (await once(daemon.port, "GET", "/health")).json()["models"][name]
    return found


async def test_it_is_connected_from_the_start_and_takes_no_place(daemon: FakeDaemon, server: RemoteServer) -> None:
    assert server.looks >= 1
    assert (await post(daemon.port, CHAT, ask("alpha"))).status == 200
    assert daemon.view("alpha").residency is daemon.view("far").residency is Residency.AWAKE
    assert daemon.view("far").devices == []
    assert daemon.view("far").memory.devices == []


@pytest.mark.parametrize("name", ["far", "gpt-4o"])
async def test_it_is_asked_by_its_own_name_and_key(daemon: FakeDaemon, server: RemoteServer, name: str) -> None:
    key = [("authorization", "Bearer sk-arena-of-the-client"), ("x-request-id", "r-7")]
    answer = await post(daemon.port, CHAT, ask(name), key)
    assert (answer.status, answer.header(SERVED_BY)) == (200, "far")
    assert answer.json()["choices"][0]["message"]["content"] == "one two three "
    (asked,) = server.asked
    assert asked.json() == ask("org/there")
    assert asked.header("authorization") == "Bearer sk-far"
    assert asked.header("x-request-id") == "r-7"


@pytest.mark.parametrize("models", [("org/dear", "org/there"), ("org/there", "org/dear", "org/there")])
async def test_a_model_that_is_named_twice_is_the_allowed_one_each_time(
    daemon: FakeDaemon, server: RemoteServer, models: tuple[str, ...]
) -> None:
    """Some servers take the first: that would be one that the key may not use, on the operator's bill.

    `org/there` is a name here, too, and so the body says what it has to say already: there is nothing to rewrite.
    """
    body = b"{%b}" % b", ".join([*(b'"model": "%b"' % m.encode() for m in models), b'"messages": [{"content": "one"}]'])
    json_type, sound = [("content-type", "application/json")], [("content-type", FORM)]
    assert (await once(daemon.port, "POST", CHAT, body, json_type)).status == 200
    fields = [*(("model", m.encode()) for m in models), ("file", b"RIFF")]
    assert (await once(daemon.port, "POST", "/v1/audio/transcriptions", form(fields), sound)).status == 200
    chat, transcription = server.asked
    for asked in (chat, transcription):
        assert b"org/dear" not in asked.body
        assert asked.body.count(b"org/there") == len(models)


async def test_a_query_stays_here(daemon: FakeDaemon, server: RemoteServer) -> None:
    """Some gateways take the model from it, or a key."""
    assert (await post(daemon.port, f"{CHAT}?model=org/dear&key=abc", ask())).status == 200
    assert [asked.path for asked in server.asked] == [CHAT]


async def test_its_stream_is_relayed_as_it_comes(daemon: FakeDaemon, server: RemoteServer) -> None:
    server.chunks.hold()
    server.chunks.release(1)
    async with connected(daemon.port) as client:
        client.post(CHAT, ask(stream=True))
        status, headers = await client.head()
        assert (status, dict(headers)[SERVED_BY]) == (200, "far")
        assert b'"one "' in await client.chunk()
        server.chunks.release()
        received = b""
        while chunk := await client.chunk():
            received += chunk
    assert b'"two "' in received
    assert received.endswith(b"data: [DONE]\n\n")


async def test_what_it_does_not_know_is_its_own_to_refuse(daemon: FakeDaemon, server: RemoteServer) -> None:
    error = {"error": {"message": "no embeddings here", "type": "invalid_request_error", "param": None, "code": None}}
    server.reply = lambda _: whole(error, "404 Not Found")
    answer = await post(daemon.port, "/v1/embeddings", {"model": "far", "input": "a"})
    assert (answer.status, answer.json()) == (404, error)


async def test_leaving_ends_the_request_there(daemon: FakeDaemon, server: RemoteServer) -> None:
    server.reply = lambda _: stream(PARTS)
    server.chunks.hold()
    server.chunks.release(1)
    async with connected(daemon.port) as client:
        client.post(CHAT, ask(stream=True))
        await client.chunk_after_head()
        client.leave()
    await until(lambda: server.asked[0].aborted, "the server to see it")


async def test_its_end_in_the_middle_is_an_error_event_and_asks_nobody_else(
    daemon: FakeDaemon, server: RemoteServer
) -> None:
    server.reply = lambda _: stream(PARTS)
    server.chunks.hold()
    server.chunks.release(1)
    async with connected(daemon.port) as client:
        client.post(CHAT, ask(stream=True))
        assert await client.chunk_after_head() == PARTS[0]
        await server.kill()
        received = b""
        while chunk := await client.chunk():
            received += chunk
    (event,) = [line for line in received.split(b"\n\n") if line.startswith(b"data: {")]
    assert json.loads(event[6:])["error"]["code"] == "engine_died"
    assert len(server.asked) == 1
    assert not daemon.engines["alpha"].inference


async def test_when_it_is_gone_the_fallback_answers_and_when_it_is_back_it_does(
    daemon: FakeDaemon, server: RemoteServer
) -> None:
    await server.kill()
    answer = await post(daemon.port, CHAT, ask())
    assert (answer.status, answer.header(SERVED_BY)) == (200, "alpha")
    await until(lambda: daemon.view("far").residency is Residency.FAILED, "it to be given up for a while")
    assert "http://" not in (await model_health(daemon, "far"))["error"], "its address is nobody's business"
    assert daemon.view("far").error == f"http://127.0.0.1:{server.port} cannot be reached: connection refused"
    assert (await post(daemon.port, CHAT, ask())).header(SERVED_BY) == "alpha"
    await server.start()
    await until(lambda: daemon.view("far").residency is Residency.AWAKE, "it to be back by itself")
    assert (await model_health(daemon, "far"))["error"] is None
    assert (await post(daemon.port, CHAT, ask())).header(SERVED_BY) == "far"


async def test_its_end_is_noticed_though_nobody_asks(daemon: FakeDaemon, server: RemoteServer) -> None:
    await server.kill()
    await until(lambda: daemon.view("far").residency is Residency.FAILED, "three looks, and a load that fails")


@pytest.mark.parametrize("line", ["503 Service Unavailable", "429 Too Many Requests", "401 Unauthorized", "700 Odd"])
async def test_the_fallback_answers_for_one_that_does_not_take_the_request(
    daemon: FakeDaemon, server: RemoteServer, line: str
) -> None:
    server.reply = lambda _: whole({"error": {"message": "not now"}}, line)
    answer = await post(daemon.port, CHAT, ask())
    assert (answer.status, answer.header(SERVED_BY)) == (200, "alpha")
    assert daemon.view("far").residency is Residency.AWAKE


@pytest.mark.parametrize(
    ("body", "retry_after"),
    [
        (b'{"error": {"code": NaN}}', "60"),
        (b'{"error": {"code": 1e999}}', "60"),
        (b'{"error": {}}', "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"),
        (b'{"error": {}}', "Mon, 01 Jan 2024 00:00:00 +99999999999"),
    ],
)
async def test_what_cannot_be_read_of_its_refusal_is_no_defect_of_ours(
    server: RemoteServer, body: bytes, retry_after: str
) -> None:
    headers = [("content-type", "application/json"), ("retry-after", retry_after)]
    server.reply = lambda _: Reply([body], "429 Too Many Requests", headers, len(body))
    far = {"model": "org/there", "backend_url": server.url, "retries": 0}
    async with running_daemon({"far": far, "first": {**far, "fallback": ["alpha"]}, "alpha": LOCAL}) as daemon:
        assert (await post(daemon.port, CHAT, ask())).status == 429
        assert (await post(daemon.port, CHAT, ask("first"))).header(SERVED_BY) == "alpha"


async def test_one_that_an_operator_stopped_stays_so_until_it_is_asked(
    daemon: FakeDaemon, server: RemoteServer
) -> None:
    assert (await once(daemon.port, "POST", "/admin/models/far/stop")).status == 202
    await until(lambda: daemon.view("far").residency is Residency.COLD, "it to be stopped")
    looks = server.looks
    daemon.pool.load("alpha")
    await until(lambda: daemon.view("alpha").residency is Residency.AWAKE, "some time to pass")
    assert daemon.view("far").residency is Residency.COLD
    assert server.looks == looks
    assert (await post(daemon.port, CHAT, ask())).header(SERVED_BY) == "far"


async def test_views_say_that_it_is_elsewhere(daemon: FakeDaemon, server: RemoteServer) -> None:
    shown = await model_health(daemon, "far")
    assert (shown["remote"], shown["gpu_memory_utilization"], shown["devices"]) == (True, None, [])
    local = await model_health(daemon, "alpha")
    assert (local["remote"], local["gpu_memory_utilization"]) == (False, 0.4)
    models = {m["name"]: m for m in (await once(daemon.port, "GET", "/admin/pool")).json()["models"]}
    assert (models["far"]["remote"], models["far"]["backend_url"]) == (True, server.url)
    assert (models["alpha"]["remote"], models["alpha"]["backend_url"]) == (False, None)


async def test_its_own_metrics_are_not_asked_for(daemon: FakeDaemon, server: RemoteServer) -> None:
    page = (await once(daemon.port, "GET", "/metrics")).body.decode()
    assert 'arena_model_residency{model="far",residency="awake"} 1.0' in page
    assert 'arena_engine_scrape_failures_total{model="far"} 0.0' in page
    assert not [r for r in server.requests if r.path == "/metrics"]


async def test_a_battle_is_fought_with_it(daemon: FakeDaemon, server: RemoteServer) -> None:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}\n\n'
    end = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
    server.reply = lambda _: stream([*PARTS, end, usage, b"data: [DONE]\n\n"])
    sides = {"models": ["alpha", "far"], "messages": [{"role": "user", "content": "one"}], "stream": False}
    answer = await post(daemon.port, "/v1/arena/compare", sides)
    assert answer.status == 200
    assert "oneoneone" in answer.body.decode()
    (asked,) = server.asked
    assert asked.json()["model"] == "org/there"
    assert "continuous_usage_stats" not in asked.json().get("stream_options", {})


async def test_one_that_is_down_at_the_start_keeps_nobody_from_starting(server: RemoteServer) -> None:
    await server.kill()
    models = {"alpha": LOCAL, "far": {"model": "org/there", "backend_url": server.url, "retries": 0}}
    async with running_daemon(models) as daemon:
        assert (await post(daemon.port, CHAT, ask("alpha"))).status == 200
        answer = await post(daemon.port, CHAT, ask())
        assert (answer.status, answer.error()["code"]) == (503, "model_unavailable")
        assert "connection refused" in answer.error()["message"]


async def test_a_daemon_of_remote_models_alone(server: RemoteServer) -> None:
    async with running_daemon({"far": {"model": "org/there", "backend_url": server.url}}) as daemon:
        assert (await post(daemon.port, CHAT, ask())).status == 200


async def test_an_answer_that_is_cut_in_one_piece_is_cut_for_the_client(
    daemon: FakeDaemon, server: RemoteServer
) -> None:
    server.reply = lambda _: Reply([b'{"a": ', b"1}"], length=8)
    server.chunks.hold()
    server.chunks.release(1)
    async with connected(daemon.port) as client:
        client.post(CHAT, ask())
        status, _ = await client.head()
        assert status == 200
        await client.exactly(6)
        await server.kill()
        assert await client.ended() == b""
