"""The course of every request to a model is told once, however it ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from arena_server.api.answer import Answer
from arena_server.course import CLIENT_LEFT
from tests.support.courses import Heard
from tests.support.daemon_app import FakeDaemon, Hands, parts, running_daemon
from tests.support.gate import turns, until
from tests.support.leases import use
from tests.support.raw_client import connected, once, post
from tests.support.replies import EVENT_STREAM, Reply, data, stream
from tests.support.server import serving

ASK: dict[str, Any] = {"model": "alpha", "prompt": "one two three", "max_tokens": 3}
STREAM = {**ASK, "stream": True}
PATH = "/v1/completions"


@pytest.fixture
async def heard() -> Heard:
    return Heard()


@pytest.fixture
async def daemon(heard: Heard) -> AsyncIterator[FakeDaemon]:
    async with running_daemon(listeners=[heard]) as running:
        yield running
        await running.come_to_rest()
    heard.check()


async def outcome(heard: Heard) -> tuple[int, str | None]:
    """Status and error of the only course."""
    (course,) = await heard.whole()
    return course.status, course.error


async def test_its_times_are_those_of_each_step(heard: Heard) -> None:
    clock = Hands()
    async with running_daemon(clock=clock, listeners=[heard]) as daemon, connected(daemon.port) as client:
        alpha = daemon.engines["alpha"]
        alpha.load_gate.hold()
        alpha.chunks.hold()
        client.post(PATH, {**STREAM, "model": "gpt-4o"}, [("X-Request-ID", "r-1")])
        await until(lambda: alpha.progress, "the load to begin")
        clock.time += 5
        alpha.load_gate.release()
        await alpha.request()
        clock.time += 2
        alpha.chunks.release(1)
        await client.chunk_after_head()
        clock.time += 3
        assert heard.done == []
        alpha.chunks.release()
        while await client.chunk():
            pass
        (course,) = await heard.whole()
    assert (course.request_id, course.route, course.model, course.stream) == ("r-1", PATH, "alpha", True)
    assert (course.received, course.granted, course.first_token, course.ended) == (1000, 1005, 1007, 1010)
    assert (course.status, course.error) == (200, None)


async def test_that_a_response_was_created_is_no_token(heard: Heard) -> None:
    clock = Hands()
    async with running_daemon(clock=clock, listeners=[heard]) as daemon, connected(daemon.port) as client:
        await use(daemon, "alpha")
        alpha = daemon.engines["alpha"]
        alpha.chunks.hold()
        client.post("/v1/responses", {"model": "alpha", "input": "x", "stream": True})
        await alpha.request()
        alpha.chunks.release(1)
        assert b"response.created" in await client.chunk_after_head()
        clock.time += 2
        alpha.chunks.release()
        while await client.chunk():
            pass
        (course,) = await heard.whole()
    assert (course.received, course.first_token) == (1000, 1002)


async def test_only_streams_of_events_count_as_streams(daemon: FakeDaemon, heard: Heard) -> None:
    await post(daemon.port, "/v1/embeddings", {"model": "alpha", "input": "x", "stream": True})
    (course,) = await heard.whole()
    assert not course.stream


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/tokenize"])
async def test_every_route_has_its_own(daemon: FakeDaemon, heard: Heard, path: str) -> None:
    await post(daemon.port, f"{path}?x=1", {"model": "alpha", "messages": [{"role": "user", "content": "x"}]})
    (course,) = await heard.whole()
    assert (course.route, course.stream, course.status) == (path, False, 200)
    assert course.first_token is not None


@pytest.mark.parametrize("body", [b"{", b'{"model": "nobody"}', b'{"model": 1}', b'{"model": "alpha", "x": "%b"}'])
async def test_what_reaches_no_model_has_none(heard: Heard, body: bytes) -> None:
    async with running_daemon(listeners=[heard], server={"max_body_bytes": 1000}) as daemon:
        assert (await once(daemon.port, "POST", PATH, body.replace(b"%b", b"x" * 1000))).status in (400, 404, 413)
    assert heard.begun == []


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Oops"])
async def test_an_error_of_the_engines_own(daemon: FakeDaemon, heard: Heard, status: str) -> None:
    daemon.engines["alpha"].reply = lambda _: Reply([b"{}"], status, length=2)
    await post(daemon.port, PATH, ASK)
    assert await outcome(heard) == (int(status[:3]), None)
    assert heard.done[0].granted is not None
    assert heard.done[0].first_token is None  # an error's text is none


EVENTS = [
    data({"error": {"message": "out of blocks", "type": "InternalServerError", "code": 500}}),
    data({"type": "error", "error": {"type": "api_error", "message": "x"}}, "error"),
]


@pytest.mark.parametrize("event", EVENTS)
async def test_an_error_event_of_the_engines_own(daemon: FakeDaemon, heard: Heard, event: bytes) -> None:
    daemon.engines["alpha"].reply = lambda _: stream([data({"choices": []}), event])
    answer = await post(daemon.port, PATH, STREAM)
    assert event in answer.body
    assert await outcome(heard) == (500, "engine_refused")


async def test_a_model_that_writes_like_an_error_event_is_none(daemon: FakeDaemon, heard: Heard) -> None:
    texts = [json.dumps({"choices": [{"text": event.decode()}]}) for event in EVENTS]
    daemon.engines["alpha"].reply = lambda _: stream([f"data: {text}\n\n".encode() for text in texts])
    await post(daemon.port, PATH, STREAM)
    assert await outcome(heard) == (200, None)


async def test_an_error_of_the_engine_after_notices_of_waiting(heard: Heard) -> None:
    async with (
        running_daemon(listeners=[heard], pool={"wait_notice_s": 0.01}) as daemon,
        connected(daemon.port) as client,
    ):
        alpha = daemon.engines["alpha"]
        alpha.load_gate.hold()
        alpha.reply = lambda _: Reply([b'{"error": {"message": "no"}}'], "400 Bad Request", length=28)
        client.post(PATH, STREAM)
        assert (await client.chunk_after_head()).startswith(b": ")
        assert (heard.begun[0].granted, heard.begun[0].first_token) == (None, None)
        alpha.load_gate.release()
        while await client.chunk():
            pass
        assert await outcome(heard) == (400, "engine_refused")
    assert heard.done[0].first_token is None


async def test_a_full_queue(heard: Heard) -> None:
    async with running_daemon(listeners=[heard], pool={"max_queue": 1}) as daemon:
        alpha = daemon.engines["alpha"]
        alpha.load_gate.hold()
        async with connected(daemon.port) as first:
            first.post(PATH, ASK)
            await until(lambda: alpha.progress, "the load to begin")
            assert (await post(daemon.port, PATH, ASK)).status == 429
            assert (heard.done[0].status, heard.done[0].error, heard.done[0].granted) == (429, "queue_full", None)
            alpha.load_gate.release()
            await first.answer()
        assert [c.status for c in await heard.whole(2)] == [200, 429]


async def test_a_model_that_cannot_be_loaded(daemon: FakeDaemon, heard: Heard) -> None:
    daemon.engines["alpha"].fail_loads()
    assert (await post(daemon.port, PATH, ASK)).status == 503
    assert await outcome(heard) == (503, "model_unavailable")


async def test_one_that_waits_at_the_shutdown(heard: Heard) -> None:
    with parts(listeners=[heard]) as joined:
        alpha = joined.engines["alpha"]
        alpha.load_gate.hold()
        async with serving(joined.daemon.app, joined.pool) as port, connected(port) as client:
            client.post(PATH, ASK)
            await until(lambda: alpha.progress, "the load to begin")
            joined.pool.refuse_new()
            assert (await client.answer()).status == 503
            joined.open_gates()
    assert await outcome(heard) == (503, "shutting_down")


async def test_one_that_runs_on_beyond_the_grace(heard: Heard) -> None:
    with parts(listeners=[heard]) as joined:
        alpha = joined.engines["alpha"]
        alpha.chunks.hold()
        async with AsyncExitStack() as clients:
            async with serving(joined.daemon.app, joined.pool, grace_s=0) as port:
                client = await clients.enter_async_context(connected(port))  # and stays until after the server's end
                client.post(PATH, STREAM)
                alpha.chunks.release(1)
                await client.chunk_after_head()
            assert b"shutting_down" in await client.chunk()
    assert await outcome(heard) == (503, "shutting_down")
    assert heard.done[0].first_token is not None


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("chunks", [0, 1])
async def test_an_engine_that_dies(daemon: FakeDaemon, heard: Heard, chunks: int, streaming: bool) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    if not streaming:
        alpha.reply = lambda _: Reply([b"{", b"}"], length=2)
    async with connected(daemon.port) as client:
        client.post(PATH, {**ASK, "stream": streaming})
        await alpha.request()
        if chunks:
            alpha.chunks.release(1)
            await client.head()
        await alpha.die()
        assert await outcome(heard) == (502, "engine_died")
    assert (heard.done[0].first_token is not None) == bool(chunks)


async def test_an_engine_that_was_gone_before_it_was_asked(daemon: FakeDaemon, heard: Heard) -> None:
    alpha = daemon.engines["alpha"]
    await use(daemon, "alpha")
    await alpha.vanish()
    async with connected(daemon.port) as client:
        client.post(PATH, ASK)
        await until(lambda: daemon.view("alpha").running, "the request to be granted the dead engine")
        first = heard.begun[0].granted
        alpha.tell_death()
        assert (await client.answer()).status == 200
    assert await outcome(heard) == (200, None)
    granted = heard.done[0].granted
    assert first is not None
    assert granted is not None
    assert granted > first  # by the engine that answered


async def test_a_client_that_leaves_the_queue(daemon: FakeDaemon, heard: Heard) -> None:
    daemon.engines["alpha"].load_gate.hold()
    async with connected(daemon.port) as client:
        client.post(PATH, STREAM)
        await until(lambda: daemon.view("alpha").waiting, "the request to wait")
        client.leave()
        assert await outcome(heard) == (CLIENT_LEFT, None)
    assert heard.done[0].granted is None


@pytest.mark.parametrize("chunks", [0, 1, 3])
@pytest.mark.parametrize("delay", range(4))
async def test_a_client_that_leaves_its_answer(daemon: FakeDaemon, heard: Heard, chunks: int, delay: int) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with connected(daemon.port) as client:
        client.post(PATH, STREAM)
        await alpha.request()
        alpha.chunks.release(chunks)
        await turns(delay)
        client.leave()
        assert await outcome(heard) == (CLIENT_LEFT, None)


async def test_a_client_that_leaves_while_the_engine_dies_was_not_told(daemon: FakeDaemon, heard: Heard) -> None:
    alpha = daemon.engines["alpha"]
    await use(daemon, "alpha")
    await alpha.vanish()
    async with connected(daemon.port) as client:
        client.post(PATH, ASK)
        await until(lambda: daemon.view("alpha").running, "the request to be granted the dead engine")
        client.leave()
        assert await outcome(heard) == (CLIENT_LEFT, None)
    alpha.tell_death()


async def test_a_defect(daemon: FakeDaemon, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Answer, "start", fails)
    assert (await post(daemon.port, PATH, ASK)).status == 500
    assert await outcome(heard) == (500, None)


# The arena's

MESSAGES = [{"role": "user", "content": "one two three"}]
COMPARE = {"models": ["alpha", "beta"], "messages": MESSAGES}
BATTLE = COMPARE
ARENA = [("/v1/arena/compare", COMPARE, "/arena/compare"), ("/v1/arena/battles", BATTLE, "/arena/battle")]
arenas = pytest.mark.parametrize(("path", "body", "route"), ARENA, ids=["compare", "battle"])


@arenas
async def test_both_sides_have_one(
    daemon: FakeDaemon, heard: Heard, path: str, body: dict[str, Any], route: str
) -> None:
    answer = await post(daemon.port, path, {**body, "max_tokens": 3}, [("X-Request-ID", "r-1")])
    assert answer.status == 200
    courses = await heard.whole(2)
    assert sorted(c.model for c in courses) == ["alpha", "beta"]
    assert [c.request_id for c in courses] == ["r-1-a", "r-1-b"]
    for course in courses:
        assert (course.route, course.status, course.error) == (route, 200, None)
        assert course.granted is not None
        assert course.first_token is not None
        seen = daemon.engines[course.model].inference[0].header("x-request-id")
        assert seen == course.request_id


@arenas
async def test_sides_whose_model_cannot_be_had(
    daemon: FakeDaemon, heard: Heard, path: str, body: dict[str, Any], route: str
) -> None:
    daemon.engines["alpha"].fail_loads()
    await post(daemon.port, path, body)
    assert [(c.status, c.error) for c in await heard.whole(2)] == [(503, "model_unavailable")] * 2


@arenas
async def test_a_side_whose_engine_dies(
    daemon: FakeDaemon, heard: Heard, path: str, body: dict[str, Any], route: str
) -> None:
    for name in ("alpha", "beta"):
        daemon.engines[name].chunks.hold()
    async with connected(daemon.port) as client:
        client.post(path, body)
        await daemon.engines["beta"].request()
        await daemon.engines["alpha"].request()
        await daemon.engines["alpha"].die()
        await until(lambda: heard.done, "the side to end")
        daemon.engines["beta"].chunks.release()
        await client.answer()
    by_model = {c.model: (c.status, c.error) for c in await heard.whole(2)}
    assert by_model["alpha"] == (502, "engine_died")
    # A battle gives the other side up, for which its model is not to be blamed; a comparison lets it go on.
    assert by_model["beta"] == ((CLIENT_LEFT, None) if route == "/arena/battle" else (200, None))


@arenas
@pytest.mark.parametrize("when", ["waiting", "answering"])
async def test_sides_that_are_left(
    daemon: FakeDaemon,
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
    route: str,
    when: str,
) -> None:
    alpha, beta = daemon.engines["alpha"], daemon.engines["beta"]
    beta.load_gate.hold() if when == "waiting" else beta.chunks.hold()
    async with connected(daemon.port) as client:
        client.post(path, body)
        await client.head()
        if when == "waiting":
            await until(lambda: beta.progress, "the load to begin")
        else:
            await beta.request()
            await until(lambda: alpha.inference and alpha.inference[0].finished, "one side to be whole")
        # Everything the pool knows takes its time to be put together, which hundreds who leave at once would add up.
        monkeypatch.setattr(daemon.pool, "view", lambda: pytest.fail("the whole pool is not to be looked at"))
        client.leave()
        by_model = {c.model: c.status for c in await heard.whole(2)}
    assert by_model == {"alpha": CLIENT_LEFT if when == "waiting" else 200, "beta": CLIENT_LEFT}


@arenas
async def test_sides_that_run_on_beyond_the_grace(heard: Heard, path: str, body: dict[str, Any], route: str) -> None:
    with parts(listeners=[heard]) as joined:
        for name in ("alpha", "beta"):
            joined.engines[name].chunks.hold()
        async with AsyncExitStack() as clients, serving(joined.daemon.app, joined.pool, grace_s=0) as port:
            client = await clients.enter_async_context(connected(port))
            client.post(path, body)
            for name in ("alpha", "beta"):
                await joined.engines[name].request()
            await client.head()
    assert [(c.status, c.error) for c in await heard.whole(2)] == [(503, "shutting_down")] * 2


async def test_a_comparison_in_one_piece_that_is_left(daemon: FakeDaemon, heard: Heard) -> None:
    for name in ("alpha", "beta"):
        daemon.engines[name].chunks.hold()
    async with connected(daemon.port) as client:
        client.post("/v1/arena/compare", {**COMPARE, "stream": False})
        for name in ("alpha", "beta"):
            await daemon.engines[name].request()
        client.leave()
        assert [c.status for c in await heard.whole(2)] == [CLIENT_LEFT] * 2


async def test_a_side_that_is_cut_short_was_answered(daemon: FakeDaemon, heard: Heard) -> None:
    for name in ("alpha", "beta"):
        daemon.engines[name].reply = lambda _: Reply(
            [data({"choices": [{"delta": {"content": "x"}, "finish_reason": "length"}]})], headers=EVENT_STREAM
        )
    await post(daemon.port, "/v1/arena/battles", BATTLE)
    assert {c.status for c in await heard.whole(2)} <= {200, CLIENT_LEFT}
    assert 200 in {c.status for c in heard.done}


async def test_sides_one_after_another_begin_in_their_turn(heard: Heard) -> None:
    big = {name: {"model": f"org/{name}", "gpu_memory_utilization": 0.7} for name in ("alpha", "beta")}
    async with running_daemon(big, listeners=[heard]) as daemon:
        daemon.engines["alpha"].fail_loads()
        await post(daemon.port, "/v1/arena/compare", COMPARE)
        courses = await heard.whole(2)
    assert [(c.model, c.status) for c in courses] == [("alpha", 503), ("beta", 200)]
    assert courses[0].ended is not None
    assert courses[1].received >= courses[0].ended
