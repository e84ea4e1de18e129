"""A model that cannot answer is answered for by those of its `fallback`, and the client is told; never twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.courses import Heard
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import until
from tests.support.leases import use
from tests.support.raw_client import connected, post
from tests.support.replies import whole
from tests.support.sse import EventReader

CHAT = "/v1/chat/completions"
SERVED_BY = "x-arena-served-by"
MODELS: dict[str, dict[str, Any]] = {
    "alpha": {"model": "org/alpha", "gpu_memory_utilization": 0.4, "fallback": ["beta", "gamma"], "aliases": ["first"]},
    "beta": {"model": "org/beta", "gpu_memory_utilization": 0.4, "fallback": ["delta"]},
    "gamma": {"model": "org/gamma", "gpu_memory_utilization": 0.4},
    "delta": {"model": "org/delta", "gpu_memory_utilization": 0.4},
}


def ask(model: str = "alpha", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "one two three"}], **more}


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def daemon(heard: Heard) -> AsyncIterator[FakeDaemon]:
    async with running_daemon(MODELS, listeners=[heard], pool={"max_wait_s": 0.3, "wait_notice_s": 0.05}) as running:
        yield running
        await running.come_to_rest()
    heard.check()


@pytest.mark.parametrize("name", ["alpha", "first"])
async def test_the_next_answers_for_one_that_cannot_load(daemon: FakeDaemon, heard: Heard, name: str) -> None:
    daemon.engines["alpha"].fail_loads()
    answer = await post(daemon.port, CHAT, ask(name))
    assert (answer.status, answer.header(SERVED_BY)) == (200, "beta")
    assert answer.json()["model"] == "beta"  # as the engine was asked for itself
    (course,) = await heard.whole()
    assert (course.model, course.status) == ("beta", 200)


async def test_who_answers_itself_says_so(daemon: FakeDaemon) -> None:
    answer = await post(daemon.port, CHAT, ask("first"))
    assert (answer.status, answer.header(SERVED_BY)) == (200, "alpha")


async def test_one_that_has_failed_is_not_waited_for(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.fail_loads()
    for _ in range(3):  # the third is asked while it is left alone after its second failure
        assert (await post(daemon.port, CHAT, ask())).header(SERVED_BY) == "beta"
    assert alpha.loads == 2


async def test_the_next_answers_where_the_wait_limit_is_passed(daemon: FakeDaemon) -> None:
    await use(daemon, "beta")
    daemon.engines["alpha"].load_gate.hold()
    assert (await post(daemon.port, CHAT, ask())).header(SERVED_BY) == "beta"


async def test_a_stream_that_has_begun_with_a_notice_says_it_in_a_comment(daemon: FakeDaemon) -> None:
    await use(daemon, "beta")
    daemon.engines["alpha"].load_gate.hold()
    answer = await post(daemon.port, CHAT, ask(stream=True))
    assert answer.status == 200
    assert b": beta answers in place of alpha\n\n" in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert b'"content": "three "' in answer.body


async def test_the_list_is_that_of_the_model_that_was_asked(daemon: FakeDaemon) -> None:
    for name in ("alpha", "beta"):
        daemon.engines[name].fail_loads()
    assert (await post(daemon.port, CHAT, ask())).header(SERVED_BY) == "gamma"
    assert not daemon.engines["delta"].requests


async def test_where_none_can_answer_it_is_the_askeds_own_reason(daemon: FakeDaemon, heard: Heard) -> None:
    for name in ("alpha", "beta", "gamma"):
        daemon.engines[name].fail_loads(f"no {name}")
    answer = await post(daemon.port, CHAT, ask())
    assert answer.status == 503
    assert "no alpha" in answer.error()["message"]
    (course,) = await heard.whole()
    assert (course.model, course.error) == ("alpha", "model_unavailable")


async def test_nobody_is_asked_what_an_engine_has_taken(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with connected(daemon.port) as client:
        client.post(CHAT, ask())
        await alpha.request()
        await alpha.die()
        answer = await client.answer()
    assert (answer.status, answer.error()["code"]) == (502, "engine_died")
    assert not daemon.engines["beta"].loads


async def test_an_engines_own_refusal_is_an_answer(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].reply = lambda _: whole({"error": {"message": "too long"}}, "400 Bad Request")
    answer = await post(daemon.port, CHAT, ask())
    assert (answer.status, answer.header(SERVED_BY)) == (400, "alpha")
    assert not daemon.engines["beta"].loads


async def test_a_blind_battle_has_the_models_it_was_begun_with(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].fail_loads()
    body = {"messages": [{"role": "user", "content": "one"}], "models": ["alpha", "gamma"]}
    async with connected(daemon.port) as client:
        client.post("/v1/arena/battles", body)
        assert (await client.head())[0] == 200
        events = [event.kind for event in await EventReader(client).all()]
    assert "error" in events
    assert not daemon.engines["beta"].loads


async def test_a_comparison_is_of_those_it_names(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].fail_loads()
    body = {"messages": [{"role": "user", "content": "one"}], "models": ["alpha", "gamma"], "stream": False}
    answer = await post(daemon.port, "/v1/arena/compare", body)
    assert answer.status == 503
    assert not daemon.engines["beta"].loads


async def test_nobody_waits_twice_who_leaves_meanwhile(daemon: FakeDaemon, heard: Heard) -> None:
    daemon.engines["alpha"].fail_loads()
    daemon.engines["beta"].load_gate.hold()
    async with connected(daemon.port) as client:
        client.post(CHAT, ask())
        await until(lambda: daemon.engines["beta"].loads, "beta to be loaded in place of alpha")
    (course,) = await heard.whole()
    assert (course.model, course.status) == ("beta", 499)
