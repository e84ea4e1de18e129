"""Answers are given again for identical deterministic requests, and for no others."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from arena_server.course import NO_TOKENS
from tests.support.courses import Heard
from tests.support.daemon_app import MODELS, FakeDaemon, Hands, config_of, running_daemon
from tests.support.gate import until
from tests.support.keys import access, bearer, key
from tests.support.raw_client import Answer, Header, connected, post
from tests.support.replies import DONE, EVENT_STREAM, Reply, data, stream, whole

CHAT = "/v1/chat/completions"
ROUTES = pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
STREAMS = pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])


def ask(**more: Any) -> dict[str, Any]:
    """What every route takes, and is deterministic."""
    words = "one two three"
    messages = [{"role": "user", "content": words}]
    return {"model": "alpha", "messages": messages, "prompt": words, "input": words, "temperature": 0, **more}


@contextlib.asynccontextmanager
async def caching(heard: Heard | None = None, **rest: Any) -> AsyncIterator[FakeDaemon]:
    settings = {"enabled": True, **rest.pop("cache", {})}
    async with running_daemon(cache=settings, listeners=[heard] if heard else [], **rest) as daemon:
        yield daemon
        await daemon.come_to_rest()


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with caching() as running:
        yield running


async def asked(
    daemon: FakeDaemon, body: dict[str, Any], path: str = CHAT, headers: Sequence[Header] = ()
) -> tuple[str | None, Answer]:
    """What the header says, and the answer."""
    answer = await post(daemon.port, path, body, headers)
    return answer.header("x-arena-cache"), answer


def taken(daemon: FakeDaemon, name: str = "alpha") -> int:
    """How many requests the engine has had."""
    return len(daemon.engines[name].inference)


@ROUTES
@STREAMS
async def test_an_identical_request_gets_the_same_answer_again(daemon: FakeDaemon, path: str, streams: bool) -> None:
    first, again = [await asked(daemon, ask(stream=streams), path) for _ in range(2)]
    assert (first[0], again[0]) == ("miss", "hit")
    assert (first[1].status, again[1].status) == (200, 200)
    assert again[1].body == first[1].body
    assert again[1].header("content-type") == first[1].header("content-type")
    assert again[1].header("x-arena-served-by") == "alpha"
    assert again[1].header("age") == "0"
    assert first[1].header("age") is None
    assert again[1].header("x-request-id") not in (None, first[1].header("x-request-id"))
    assert taken(daemon) == 1


async def test_it_is_off_unless_it_is_asked_for() -> None:
    async with running_daemon() as daemon:
        assert [(await asked(daemon, ask()))[0] for _ in range(2)] == [None, None]
        assert taken(daemon) == 2


async def test_json_that_means_the_same_is_identical(daemon: FakeDaemon) -> None:
    body = ask()
    await asked(daemon, body)
    assert (await asked(daemon, dict(reversed(body.items()))))[0] == "hit"


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [{"role": "user", "content": "four"}]},
        {"max_tokens": 2},
        {"stream": True},
        {"temperature": 0.0, "seed": 1},
        {"model": "gpt-4o"},
        {"model": "beta"},
    ],
    ids=str,
)
async def test_another_request_is_not(daemon: FakeDaemon, other: dict[str, Any]) -> None:
    await asked(daemon, ask())
    assert (await asked(daemon, ask(**other)))[0] == "miss"


async def test_nor_is_one_for_another_route_or_with_another_query(daemon: FakeDaemon) -> None:
    await asked(daemon, ask())
    assert (await asked(daemon, ask(), "/v1/completions"))[0] == "miss"
    assert (await asked(daemon, ask(), f"{CHAT}?echo=1"))[0] == "miss"


@pytest.mark.parametrize("body", [{"temperature": None}, {"temperature": 0.5}, {"temperature": "0x"}], ids=str)
async def test_what_is_not_deterministic_is_not_kept(daemon: FakeDaemon, body: dict[str, Any]) -> None:
    assert [(await asked(daemon, ask(**body)))[0] for _ in range(2)] == [None, None]
    assert taken(daemon) == 2


async def test_a_seed_makes_it_deterministic(daemon: FakeDaemon) -> None:
    body = ask(temperature=0.7, seed=0)
    assert [(await asked(daemon, body))[0] for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize("wish", ["no-store", "no-cache", "max-age=0, No-Cache"])
async def test_a_client_can_go_round_it(daemon: FakeDaemon, wish: str) -> None:
    await asked(daemon, ask())
    assert (await asked(daemon, ask(), headers=[("cache-control", wish)]))[0] is None
    assert taken(daemon) == 2


async def test_other_routes_and_large_bodies_are_not_cached(daemon: FakeDaemon) -> None:
    assert (await asked(daemon, ask(), "/v1/embeddings"))[0] is None
    assert (await asked(daemon, ask(user="x" * (256 << 10))))[0] is None


@pytest.mark.parametrize(
    "more",
    [{"previous_response_id": "resp-0"}, {"background": True}, {"tools": [{"type": "web_search"}]}, {"tools": 5}],
    ids=str,
)
async def test_responses_that_lean_on_more_than_the_request_are_not_cached(
    daemon: FakeDaemon, more: dict[str, Any]
) -> None:
    assert (await asked(daemon, ask(**more), "/v1/responses"))[0] is None
    tools = [{"type": "function", "name": "f"}]
    assert (await asked(daemon, ask(tools=tools), "/v1/responses"))[0] == "miss"


# Whose it is


async def test_one_key_does_not_get_anothers_answers() -> None:
    keys = {name: key(name, "inference") for name in ("ann", "bob")}
    async with caching(access=access(keys)) as daemon:
        for name, expected in (("ann", "miss"), ("bob", "miss"), ("ann", "hit"), ("bob", "hit")):
            assert (await asked(daemon, ask(), headers=bearer(name)))[0] == expected
        assert taken(daemon) == 2


async def test_a_model_that_was_changed_does_not_answer_from_before() -> None:
    async with caching() as daemon:
        await asked(daemon, ask())
        models = {**MODELS, "alpha": {**MODELS["alpha"], "model": "org/other"}}
        daemon.daemon.reloader.apply(config_of(models, cache={"enabled": True}))
        assert (await asked(daemon, ask()))[0] == "miss"
        assert (await asked(daemon, ask()))[0] == "hit"


# What is kept


async def test_an_error_is_not_kept(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].reply = lambda _: whole({"error": {"message": "no"}}, "400 Bad Request")
    assert [(await asked(daemon, ask()))[0] for _ in range(2)] == ["miss", "miss"]


@pytest.mark.parametrize(
    "last",
    [
        [data({"error": {"message": "out of blocks", "code": 500}}), DONE],
        [b'data: {"choices":[{"index":0,"text":"","finish_reason":"abort"}]}\n\n', DONE],
    ],
    ids=["error event", "aborted"],
)
async def test_nor_a_stream_that_ended_badly(daemon: FakeDaemon, last: list[bytes]) -> None:
    daemon.engines["alpha"].reply = lambda _: stream([data({"choices": [{"index": 0, "text": "one"}]}), *last])
    for _ in range(2):
        found, answer = await asked(daemon, ask(stream=True))
        assert (found, answer.status) == ("miss", 200)


RESPONSE = {"id": "r", "output": []}
NO_END = data({"choices": [{"index": 0, "delta": {"content": "half of"}}]})


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        (CHAT, stream([NO_END])),
        (CHAT, stream([NO_END, data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})])),
        (CHAT, stream([data({"choices": [{"index": 0, "delta": {}, "finish_reason": "abort"}]}), DONE])),
        (CHAT, stream([NO_END, b'data:{ "error" : {"message": "no"}}\n\n', DONE])),
        (CHAT, whole({"choices": [{"index": 0, "message": {}, "finish_reason": "abort"}]})),
        (CHAT, whole({"error": {"message": "no"}})),
        (CHAT, whole("no object")),
        ("/v1/messages", stream([data({"type": "message_start"}, "message_start")])),
        ("/v1/messages", stream([data({"type": "message_start"}, "message_start"), DONE])),
        ("/v1/responses", stream([data({"type": "response.created", "response": RESPONSE}), DONE])),
        (
            "/v1/responses",
            stream([data({"type": "response.failed", "response": {"status": "failed"}}, "response.failed")]),
        ),
        ("/v1/responses", whole({**RESPONSE, "status": "failed", "error": {"code": "server_error"}})),
        ("/v1/responses", whole({**RESPONSE, "status": "incomplete"})),
    ],
)
async def test_nor_what_failed_or_was_cut_off_though_all_of_it_came(
    daemon: FakeDaemon, path: str, reply: Reply
) -> None:
    daemon.engines["alpha"].reply = lambda _: reply
    body = ask(stream=reply.headers == EVENT_STREAM)
    for _ in range(2):
        found, answer = await asked(daemon, body, path)
        assert (found, answer.status) == ("miss", 200)


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/messages", [data({"type": "message_stop"}, "message_stop"), DONE]),
        ("/v1/responses", [data({"type": "response.completed", "response": {"status": "completed"}}), DONE]),
    ],
)
async def test_a_mark_behind_the_proper_end_does_no_harm(daemon: FakeDaemon, path: str, last: list[bytes]) -> None:
    daemon.engines["alpha"].reply = lambda _: stream(last)
    assert [(await asked(daemon, ask(stream=True), path))[0] for _ in range(2)] == ["miss", "hit"]


async def test_a_header_that_the_engine_gets_makes_another_request(daemon: FakeDaemon) -> None:
    for beta, expected in (("a", "miss"), ("b", "miss"), ("a", "hit")):
        assert (await asked(daemon, ask(), "/v1/messages", [("anthropic-beta", beta)]))[0] == expected
    same = [("anthropic-beta", "a"), ("user-agent", "x/2"), ("x-stainless-os", "Y"), ("x-arena-session", "z")]
    assert (await asked(daemon, ask(), "/v1/messages", same))[0] == "hit"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
        {"type": "input_image", "image_url": "http://x.example/a.png"},
        {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}},
        {"type": "audio_url", "audio_url": {"url": "file:///a.wav"}},
    ],
    ids=str,
)
async def test_what_is_behind_a_url_may_change(daemon: FakeDaemon, part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [part]}]
    assert (await asked(daemon, ask(messages=messages, prompt="a")))[0] is None


async def test_what_is_in_the_request_itself_does_not(daemon: FakeDaemon) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA://"}}
    daemon.engines["alpha"].reply = lambda _: whole({"choices": []})
    body = ask(messages=[{"role": "user", "content": [part]}])
    assert [(await asked(daemon, body))[0] for _ in range(2)] == ["miss", "hit"]


async def test_nor_one_that_its_client_left(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with connected(daemon.port) as client:
        client.post(CHAT, ask(stream=True))
        alpha.chunks.release(2)
        await client.head()
        await client.chunk()
        client.leave()
    await until(lambda: alpha.inference[0].aborted, "the engine to be left")
    alpha.chunks.release()
    assert (await asked(daemon, ask(stream=True)))[0] == "miss"
    assert (await asked(daemon, ask(stream=True)))[0] == "hit"


async def test_nor_one_of_an_engine_that_died() -> None:
    async with caching() as daemon:
        alpha = daemon.engines["alpha"]
        alpha.chunks.hold()
        async with connected(daemon.port) as client:
            client.post(CHAT, ask(stream=True))
            alpha.chunks.release(2)
            await client.head()
            await alpha.die()
            last = b""
            while chunk := await client.chunk():
                last = chunk
            assert b'"error"' in last
        alpha.chunks.release()
        assert (await asked(daemon, ask(stream=True)))[0] == "miss"


async def test_nor_one_that_began_with_words_for_who_waits() -> None:
    async with caching(pool={"wait_notice_s": 0.05}) as daemon:
        daemon.engines["alpha"].load_gate.hold()
        async with connected(daemon.port) as client:
            client.post(CHAT, ask(stream=True))
            assert dict((await client.head())[1])["x-arena-cache"] == "miss"
            assert (await client.chunk()).startswith(b": ")
            daemon.engines["alpha"].load_gate.release()
            while await client.chunk():
                pass
        assert (await asked(daemon, ask(stream=True)))[0] == "miss"


async def test_nor_one_of_another_model_in_its_place() -> None:
    models = {**MODELS, "alpha": {**MODELS["alpha"], "fallback": ["beta"]}}
    async with caching(models=models) as daemon:
        daemon.engines["alpha"].fail_loads("no such file")
        for _ in range(2):
            found, answer = await asked(daemon, ask())
            assert (found, answer.header("x-arena-served-by")) == ("miss", "beta")


async def test_the_engines_cookies_are_its_clients_own(daemon: FakeDaemon) -> None:
    headers = [("content-type", "application/json"), ("set-cookie", "a=b"), ("x-ratelimit-limit-requests", "5")]
    daemon.engines["alpha"].reply = lambda _: Reply([b"{}"], headers=headers)
    await asked(daemon, ask())
    found, answer = await asked(daemon, ask())
    assert (found, answer.body) == ("hit", b"{}")
    assert (answer.header("set-cookie"), answer.header("x-ratelimit-limit-requests")) == (None, None)


async def test_a_packed_answer_is_not_kept(daemon: FakeDaemon) -> None:
    """The next client may not be able to unpack it."""
    headers = [("content-type", "application/json"), ("content-encoding", "gzip")]
    daemon.engines["alpha"].reply = lambda _: Reply([b"xx"], headers=headers)
    assert [(await asked(daemon, ask()))[0] for _ in range(2)] == ["miss", "miss"]


# Bounds


async def test_an_answer_is_kept_for_a_while() -> None:
    clock = Hands()
    async with caching(clock=clock, cache={"ttl_s": 60.0}) as daemon:
        await asked(daemon, ask())
        clock.time += 59
        found, answer = await asked(daemon, ask())
        assert (found, answer.header("age")) == ("hit", "59")
        clock.time += 2
        assert (await asked(daemon, ask()))[0] == "miss"


async def test_answers_have_so_much_memory_and_no_more() -> None:
    async with caching(cache={"max_bytes": 1 << 20}) as daemon:
        body = json.dumps({"text": "x" * (60 << 10)}).encode()
        daemon.engines["alpha"].reply = lambda _: Reply([body], length=len(body))
        for i in range(20):
            await asked(daemon, ask(user=str(i)))
        assert (await asked(daemon, ask(user="19")))[0] == "hit"
        assert (await asked(daemon, ask(user="0")))[0] == "miss"


async def test_answers_in_the_making_have_so_much_memory_together() -> None:
    async with caching(cache={"max_bytes": 1 << 20}) as daemon:
        alpha = daemon.engines["alpha"]
        text = b" " * (50 << 10) + b"{"
        alpha.reply = lambda _: Reply([text, b"}"])
        alpha.chunks.hold()
        running = [asyncio.create_task(asked(daemon, ask(user=str(i)))) for i in range(8)]
        await until(lambda: taken(daemon) == 8, "all to be asked")
        alpha.chunks.release(8)
        await until(lambda: all(request.sent == 1 for request in alpha.inference), "all to have their first part")
        alpha.chunks.release()
        assert all(answer.body == text + b"}" for _, answer in await asyncio.gather(*running)), "nobody is held up"
        again = [(await asked(daemon, ask(user=str(i))))[0] for i in range(8)]
        assert 1 <= again.count("hit") <= 5
        # What they took has been given back.
        assert (await asked(daemon, ask(user="another")))[0] == "miss"
        assert (await asked(daemon, ask(user="another")))[0] == "hit"


async def test_an_answer_that_would_drive_the_others_out_is_not_kept() -> None:
    async with caching(cache={"max_bytes": 1 << 20}) as daemon:
        pieces = [b"x" * (40 << 10)] * 2
        daemon.engines["alpha"].reply = lambda _: Reply(pieces)
        for _ in range(2):
            found, answer = await asked(daemon, ask())
            assert (found, answer.body) == ("miss", b"".join(pieces))


async def test_a_new_configuration_turns_it_on_and_off() -> None:
    async with running_daemon() as daemon:
        for enabled, expected in ((True, ["miss", "hit"]), (False, [None, None]), (True, ["miss", "hit"])):
            daemon.daemon.reloader.apply(config_of(MODELS, cache={"enabled": enabled}))
            assert [(await asked(daemon, ask()))[0] for _ in range(2)] == expected


# In passing


async def test_a_hit_waits_for_no_model_and_takes_no_tokens() -> None:
    heard = Heard()
    async with caching(heard) as daemon:
        await asked(daemon, ask())
        daemon.pool.stop("alpha")
        await until(lambda: daemon.view("alpha").residency == "cold", "alpha to stop")
        assert (await asked(daemon, ask()))[0] == "hit"
        assert daemon.view("alpha").residency == "cold"
        miss, hit = await heard.whole(2)
        assert (miss.cached, miss.tokens.completion_tokens > 0) == (False, True)
        assert (hit.cached, hit.status, hit.error, hit.tokens) == (True, 200, None, NO_TOKENS)
        assert hit.granted is not None


async def test_a_recorded_stream_comes_as_it_is_made(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with connected(daemon.port) as client:
        client.post(CHAT, ask(stream=True))
        alpha.chunks.release(1)
        assert (await client.head())[0] == 200
        assert b"one" in await client.chunk()
        assert alpha.inference[0].sent == 1
        alpha.chunks.release()
        while await client.chunk():
            pass


async def test_two_at_once_both_ask_the_engine(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    both = [asyncio.create_task(asked(daemon, ask())) for _ in range(2)]
    await until(lambda: taken(daemon) == 2, "both to reach the engine")
    alpha.chunks.release()
    assert [found for found, _ in await asyncio.gather(*both)] == ["miss", "miss"]
    assert (await asked(daemon, ask()))[0] == "hit"
