"""`POST /v1/arena/compare`: several models at once, by name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import until
from tests.support.leases import use
from tests.support.logs import logged
from tests.support.raw_client import Answer, RawClient, connected
from tests.support.replies import DONE, Received, Reply, data, stream, whole
from tests.support.sse import EventReader, Sent

COMPARE = "/v1/arena/compare"
PAIR = ["alpha", "beta"]
# Two of the three fit.
ALL = ["alpha", "beta", "org/gamma"]


def ask(models: list[str] = PAIR, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "one two three"}], "models": models, **more}


@pytest.fixture
async def daemon(caplog: pytest.LogCaptureFixture) -> AsyncIterator[FakeDaemon]:
    """Checks that nobody keeps a lease or a place, and that nothing was logged as a defect."""
    async with running_daemon() as running:
        yield running
        await running.come_to_rest()
    assert [r.getMessage() for r in logged(caplog) if r.exc_info] == []


async def answered(daemon: FakeDaemon, body: dict[str, Any]) -> Answer:
    async with connected(daemon.port) as client:
        client.post(COMPARE, body)
        return await client.answer()


async def events_of(daemon: FakeDaemon, body: dict[str, Any]) -> list[Sent]:
    async with connected(daemon.port) as client:
        return await (await begun(client, body)).all()


async def begun(client: RawClient, body: dict[str, Any]) -> EventReader:
    client.post(COMPARE, body)
    status, headers = await client.head()
    assert status == 200
    assert dict(headers)["content-type"].startswith("text/event-stream")
    assert dict(headers)["x-accel-buffering"] == "no"
    return EventReader(client)


def text_of(events: list[Sent], side: str) -> str:
    return "".join(e.data["text"] for e in events if e.kind == "delta" and e.data["side"] == side)


def with_usage(request: Received) -> Reply:
    """What vLLM sends of a reasoning model, with counts of tokens."""

    def chunk(delta: dict[str, str], end: str | None = None) -> bytes:
        return data({"choices": [{"index": 0, "delta": delta, "finish_reason": end}]})

    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": None}
    last = data({"choices": [], "usage": usage})
    return stream([chunk({"reasoning": "hm"}), chunk({"content": "Yes"}), chunk({"content": "."}, "stop"), last, DONE])


async def test_both_answer_in_one_stream_under_one_lease(daemon: FakeDaemon) -> None:
    events = await events_of(daemon, ask(max_tokens=3, temperature=0.5))
    assert events[0] == Sent(
        "start",
        {
            "sides": [{"side": "a", "model": "alpha"}, {"side": "b", "model": "beta"}],
            "co_residency": "together",
            "order": ["a", "b"],
        },
    )
    assert text_of(events, "a") == text_of(events, "b") == "one two three "
    done = {e.data["side"]: e.data for e in events if e.kind == "done"}
    assert done.keys() == {"a", "b"}
    for figures in done.values():
        assert figures["finish_reason"] == "length"
        assert figures["waited_s"] >= 0
        assert figures["ttft_s"] >= 0
    assert events[-1] == Sent("end", {})
    sent = daemon.engines["alpha"].inference[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.json() == {
        "model": "alpha",
        "messages": [{"role": "user", "content": "one two three"}],
        "max_tokens": 3,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


async def test_thoughts_and_counts_come_through(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].reply = with_usage
    events = await events_of(daemon, ask())
    assert [e.data for e in events if e.kind == "delta" and e.data["side"] == "a"] == [
        {"side": "a", "reasoning": "hm"},
        {"side": "a", "text": "Yes"},
        {"side": "a", "text": "."},
    ]
    (done,) = [e.data for e in events if e.kind == "done" and e.data["side"] == "a"]
    assert done["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert done["tokens_per_s"] > 0


async def test_who_waits_is_told_of_each_side(daemon: FakeDaemon) -> None:
    await use(daemon, "alpha")
    daemon.engines["beta"].load_gate.hold()
    async with connected(daemon.port) as client:
        reader = await begun(client, ask())
        assert (await reader.next() or Sent("", {})).kind == "start"
        first = {(e := await reader.until("status")).data["side"]: e.data for _ in range(2)}
        assert first["a"]["phase"] == "ready"
        assert first["b"]["phase"] == "loading"
        assert first["b"]["eta_s"] is not None
        assert first["b"]["place"] == 1
        daemon.engines["beta"].load_gate.release()
        rest = await reader.all()
    ready = [e.data["side"] for e in rest if e.kind == "status" and e.data["detail"] == "awake"]
    assert sorted(ready) == ["a", "b"]


async def test_without_stream_it_is_one_json(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].reply = with_usage
    answer = await answered(daemon, ask(stream=False))
    assert answer.status == 200
    body = answer.json()
    assert body["co_residency"] == "together"
    first, second = body["sides"]
    assert first | {"waited_s": 0, "ttft_s": 0, "tokens_per_s": 0} == {
        "side": "a",
        "model": "alpha",
        "text": "Yes.",
        "reasoning": "hm",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        "waited_s": 0,
        "ttft_s": 0,
        "tokens_per_s": 0,
    }
    assert second["text"] == "one two three "
    assert second["reasoning"] is None


async def test_aliases_name_their_models(daemon: FakeDaemon) -> None:
    events = await events_of(daemon, ask(["gpt-4o", "beta"]))
    assert events[0].data["sides"][0] == {"side": "a", "model": "alpha"}


async def test_each_side_may_have_its_own_conversation(daemon: FakeDaemon) -> None:
    own = {letter: [{"role": "user", "content": letter * 3}] for letter in "ab"}
    events = await events_of(daemon, ask() | {"messages": own, "max_tokens": 1})
    assert (text_of(events, "a"), text_of(events, "b")) == ("aaa ", "bbb ")


async def test_those_that_cannot_be_together_answer_one_after_the_other_the_awake_one_first(
    daemon: FakeDaemon,
) -> None:
    await use(daemon, "org/gamma")
    events = await events_of(daemon, ask(ALL))
    assert events[0].data["co_residency"] == "one_after_another"
    assert events[0].data["order"] == ["c", "a", "b"]
    assert [e.data["side"] for e in events if e.kind == "done"] == ["c", "a", "b"]
    assert events[-1].kind == "end"


async def test_those_that_have_to_be_together_and_cannot_are_refused(daemon: FakeDaemon) -> None:
    answer = await answered(daemon, ask(ALL, co_residency="require"))
    assert answer.status == 409
    assert answer.error()["code"] == "models_do_not_fit_together"
    assert "40.0 GiB" in answer.error()["message"]
    assert not any(engine.loads for engine in daemon.engines.values())


async def test_one_sides_error_leaves_the_other_alone(daemon: FakeDaemon) -> None:
    refusal = {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}
    daemon.engines["beta"].reply = lambda request: whole({"error": refusal}, "400 Bad Request")
    events = await events_of(daemon, ask())
    assert [e.data for e in events if e.kind == "error"] == [{"side": "b", "error": refusal}]
    assert [e.data["side"] for e in events if e.kind == "done"] == ["a"]
    whole_answer = await answered(daemon, ask(stream=False))
    assert whole_answer.status == 200
    assert whole_answer.json()["sides"][1] == {"side": "b", "model": "beta", "error": refusal}


async def test_if_none_answers_the_status_is_the_first_ones(daemon: FakeDaemon) -> None:
    refusal = {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}
    for name in PAIR:
        daemon.engines[name].reply = lambda request: whole({"error": refusal}, "400 Bad Request")
    answer = await answered(daemon, ask(stream=False))
    assert answer.status == 400
    assert answer.json() == {"error": refusal}


async def test_an_engine_that_dies_midway_is_an_error_of_its_side(daemon: FakeDaemon) -> None:
    engine = daemon.engines["beta"]
    engine.chunks.hold()
    async with connected(daemon.port) as client:
        reader = await begun(client, ask(max_tokens=2))
        assert (await reader.until("delta")).data["side"]
        await until(lambda: engine.inference and engine.inference[0].sent == 0, "beta to be asked")
        await engine.die()
        events = await reader.all()
    (error,) = [e.data for e in events if e.kind == "error"]
    assert error["side"] == "b"
    assert error["error"]["code"] == "engine_died"
    assert [e.data["side"] for e in events if e.kind == "done"] == ["a"]


async def test_an_answer_that_breaks_off_is_no_answer(daemon: FakeDaemon) -> None:
    chunk = data({"choices": [{"index": 0, "delta": {"content": "Half a"}, "finish_reason": None}]})
    daemon.engines["beta"].reply = lambda request: stream([chunk])
    events = await events_of(daemon, ask())
    (error,) = [e.data for e in events if e.kind == "error"]
    assert (error["side"], error["error"]["code"]) == ("b", "engine_died")


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_client_that_leaves_frees_all_engines_at_once(daemon: FakeDaemon, streaming: bool) -> None:
    for name in PAIR:
        daemon.engines[name].chunks.hold()
    async with connected(daemon.port) as client:
        client.post(COMPARE, ask(stream=streaming))
        await until(lambda: all(daemon.engines[name].inference for name in PAIR), "both to be asked")
    for name in PAIR:
        await daemon.idle(name)
    requests = [daemon.engines[name].inference[0] for name in PAIR]
    await until(lambda: all(request.aborted for request in requests), "both requests to be aborted")


async def test_a_client_that_leaves_the_queue_leaves_no_place(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].load_gate.hold()
    async with connected(daemon.port) as client:
        await begun(client, ask())
        assert daemon.view("beta").waiting == 1
    await daemon.idle("beta")
    assert not daemon.engines["beta"].inference


async def test_the_faster_sides_engine_is_free_before_the_slower_one_is_done(daemon: FakeDaemon) -> None:
    daemon.engines["beta"].chunks.hold()
    async with connected(daemon.port) as client:
        reader = await begun(client, ask())
        assert (await reader.until("done")).data["side"] == "a"
        await daemon.idle("alpha")
        assert daemon.view("beta").running == 1
        daemon.engines["beta"].chunks.release()
        await reader.all()


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"models": ["alpha"]}, 400, "`models`: List should have at least 2 items"),
        ({"models": ["alpha", "beta", "org/gamma", "x", "y"]}, 400, "`models`: List should have at most 4 items"),
        ({"models": ["alpha", "gpt-4o"]}, 400, "`models` names one model twice."),
        ({"models": ["alpha", "nobody"]}, 404, "nobody"),
        ({"messages": []}, 400, "at least 1 item"),
        ({"messages": {"a": [{"role": "user", "content": "x"}]}}, 400, "one list for each of a, b"),
        ({"temperature": 3}, 400, "`temperature`: Input should be less than or equal to 2"),
        ({"n": 2}, 400, "`n` is not known here."),
        ({"co_residency": "maybe"}, 400, "`co_residency`"),
    ],
)
async def test_what_is_asked_wrongly_is_refused_with_the_field(
    daemon: FakeDaemon, change: dict[str, Any], status: int, message: str
) -> None:
    answer = await answered(daemon, ask() | change)
    assert answer.status == status
    assert message in answer.error()["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null"])
async def test_what_is_no_object_is_refused(daemon: FakeDaemon, body: bytes) -> None:
    async with connected(daemon.port) as client:
        client.request("POST", COMPARE, body, [("Content-Type", "application/json")])
        answer = await client.answer()
    assert answer.status == 400
    assert answer.error()["type"] == "invalid_request_error"


async def test_a_queue_that_is_full_is_an_answer_of_its_own() -> None:
    async with running_daemon(pool={"max_queue": 1}) as daemon:
        daemon.engines["alpha"].load_gate.hold()
        async with connected(daemon.port) as first, connected(daemon.port) as second:
            await begun(first, ask())
            second.post(COMPARE, ask())
            answer = await second.answer()
            assert answer.status == 429
            assert answer.header("retry-after") is not None
            assert json.loads(answer.body)["error"]["code"] == "queue_full"
            daemon.open_gates()
            await EventReader(first).all()
