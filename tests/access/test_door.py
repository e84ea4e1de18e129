"""Who gets through the door, what becomes of the others, and that nobody's answer suffers from it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from arena_server.access.key import sha256_of
from arena_server.store.database import Database
from arena_server.store.key_record import KeyRecord
from arena_server.store.keys import add_key
from arena_server.store.url import sqlite_url
from tests.support.daemon_app import MODELS, FakeDaemon, Hands, running_daemon
from tests.support.gate import LIMIT_S, until
from tests.support.keys import access, bearer, key, token_of
from tests.support.leases import use
from tests.support.raw_client import Answer, Header, connected, once, post

CHAT: dict[str, Any] = {"model": "alpha", "messages": [{"role": "user", "content": "a b c"}]}
PATH = "/v1/chat/completions"


async def ask(daemon: FakeDaemon, headers: list[Header], **rest: Any) -> Answer:
    return await post(daemon.port, PATH, {**CHAT, **rest}, headers)


def limits_in(answer: Answer) -> dict[str, str]:
    found = [(name, value) for name, value in answer.headers if name.startswith("x-ratelimit")]
    assert len(dict(found)) == len(found)
    return {name.removeprefix("x-ratelimit-"): value for name, value in found}


# Keys


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[FakeDaemon]:
    async with running_daemon(access=access(failed_tries_per_minute=1000)) as running:
        await use(running, "alpha")
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def daemon(shared: FakeDaemon) -> FakeDaemon:
    """Its model alpha is awake, and has not been asked anything."""
    shared.engines["alpha"].requests.clear()
    return shared


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", f"Bearer {token_of('inference')}")],
        [("authorization", f"bearer   {token_of('inference')}")],
        [("Authorization", f"BEARER {token_of('inference')}")],
        [("x-api-key", token_of("inference"))],
        [("X-API-Key", f" {token_of('inference')} ")],
        [("Authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", token_of("inference"))],
        [("x-api-key", "none"), ("Authorization", f"Bearer {token_of('inference')}")],
        [("Authorization", "Bearer "), ("x-api-key", token_of("inference"))],
    ],
)
async def test_a_key_may_be_shown_in_the_ways_of_openai_s_and_anthropic_s_clients(
    daemon: FakeDaemon, headers: list[Header]
) -> None:
    assert (await ask(daemon, headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", token_of("inference"))],
        [("Authorization", f"Basic {token_of('inference')}")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Cookie", f"key={token_of('inference')}")],
    ],
)
async def test_without_a_key_one_is_told_that_it_needs_one(daemon: FakeDaemon, headers: list[Header]) -> None:
    answer = await ask(daemon, headers)
    assert (answer.status, answer.header("www-authenticate")) == (401, "Bearer")
    assert answer.error()["code"] == "invalid_api_key"
    assert "You need an API key" in answer.error()["message"]
    assert daemon.engines["alpha"].inference == []


async def test_nothing_of_a_wrong_key_is_told_or_written_down(
    daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "sk-arena-" + "abcdefgh" * 5
    for headers in ([("Authorization", f"Bearer {secret}")], [("x-api-key", secret)]):
        answer = await ask(daemon, headers)
        assert (answer.status, answer.error()["code"]) == (401, "invalid_api_key")
        assert "abcdefgh" not in str(answer)
    assert "A wrong API key from 127.0.0.1" in caplog.text
    assert "abcdefgh" not in caplog.text
    assert sha256_of(secret)[:8] not in caplog.text


@pytest.mark.parametrize("value", [b"\xff\xfe", b"x" * 60_000, b"a\tb", b"\xed\xa0\x80"])
async def test_no_header_is_a_defect(daemon: FakeDaemon, value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(daemon.port) as client:
        client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + value + b"\r\n\r\n")
        assert (await client.answer()).status in (400, 401, 431)
    assert "Traceback" not in caplog.text


async def test_a_key_with_letters_of_any_alphabet_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "schlüssel-für-die-prüfung"
    monkeypatch.setenv("A_KEY", secret)
    async with running_daemon(access=access({"a": {"key_env": "A_KEY"}})) as daemon:
        header = ("Authorization", f"Bearer {secret}".encode().decode("latin-1"))
        assert (await once(daemon.port, "GET", "/v1/models", b"", [header])).status == 200


async def test_a_refused_request_s_body_does_not_upset_the_connection(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        for _ in range(3):
            client.post(PATH, {**CHAT, "filler": "x" * 100_000})
            assert (await client.answer()).status == 401
            client.post(PATH, CHAT, bearer("inference"))
            assert (await client.answer()).status == 200


async def test_the_key_goes_to_no_engine(daemon: FakeDaemon) -> None:
    await ask(daemon, [*bearer("inference"), ("x-api-key", token_of("inference"))])
    (request,) = daemon.engines["alpha"].inference
    assert token_of("inference") not in str(request.headers)


async def test_models_outside_of_a_key_s_list_are_refused() -> None:
    keys = {"a": key("a", "inference", "arena", models=["alpha", "beta"])}
    async with running_daemon(access=access(keys)) as daemon:
        assert (await ask(daemon, bearer("a"))).status == 200
        refused = await ask(daemon, bearer("a"), model="org/gamma")
        assert (refused.status, refused.error()["code"]) == (403, "model_not_allowed")
        pair = {"models": ["alpha", "org/gamma"], "messages": CHAT["messages"]}
        for path in ("/v1/arena/compare", "/v1/arena/battles"):
            refused = await post(daemon.port, path, pair, bearer("a"))
            assert (refused.status, refused.error()["code"]) == (403, "model_not_allowed")
        listed = await once(daemon.port, "GET", "/v1/models", b"", bearer("a"))
        assert {card["id"] for card in listed.json()["data"]} == {"alpha", "gpt-4o", "org/alias", "beta"}
        assert daemon.engines["org/gamma"].inference == []


async def test_openai_s_client_raises_what_it_raises_with_openai() -> None:
    keys = {"a": key("a", "inference", models=["alpha"]), "metrics": key("metrics")}
    limits = {"requests_per_minute": 2}

    async def raised(daemon: FakeDaemon, name: str, model: str) -> tuple[type[Exception], str | None]:
        client = openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key=token_of(name), max_retries=0)
        async with client:
            with pytest.raises(openai.APIStatusError) as error:
                await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "a"}])
        return error.type, error.value.code

    async with running_daemon(access=access(keys, key_limits=limits)) as daemon:
        assert await raised(daemon, "wrong", "alpha") == (openai.AuthenticationError, "invalid_api_key")
        assert await raised(daemon, "metrics", "alpha") == (openai.PermissionDeniedError, "insufficient_scope")
        assert await raised(daemon, "a", "beta") == (openai.PermissionDeniedError, "model_not_allowed")
        assert await raised(daemon, "a", "nothing") == (openai.NotFoundError, "model_not_found")
        assert await raised(daemon, "a", "alpha") == (openai.RateLimitError, "rate_limit_exceeded")


async def test_orders_from_another_site_s_page_are_refused_with_a_key_too(daemon: FakeDaemon) -> None:
    headers = [*bearer("admin"), ("Sec-Fetch-Site", "cross-site")]
    answer = await once(daemon.port, "POST", "/admin/models/alpha/load", b"", headers)
    assert (answer.status, answer.error()["code"]) == (403, "cross_site")


async def test_what_nobody_may_see_is_not_told_apart_without_a_key(daemon: FakeDaemon) -> None:
    paths = ("/admin/pool", "/admin/nothing", "/nothing", "/v1/models/nothing", "/v1/models/alpha")
    answers = [await once(daemon.port, "GET", path) for path in paths]
    assert {(a.status, a.body) for a in answers} == {(401, answers[0].body)}


# Wrong ones


async def test_too_many_wrong_keys_shut_an_address_but_not_who_was_let_in_before() -> None:
    clock = Hands()
    async with running_daemon(access=access(failed_tries_per_minute=3), clock=clock) as daemon:
        assert (await once(daemon.port, "GET", "/v1/models", b"", bearer("arena"))).status == 200
        for i in range(3):
            assert (await ask(daemon, bearer(f"wrong {i}"))).status == 401
        for name in ("wrong 4", "inference"):
            answer = await ask(daemon, bearer(name))
            assert (answer.status, answer.error()["code"]) == (429, "too_many_failed_tries")
            assert answer.header("retry-after") == "20"
        assert (await once(daemon.port, "GET", "/v1/models", b"", bearer("arena"))).status == 200
        assert (await once(daemon.port, "GET", "/health", b"", bearer("wrong 4"))).status == 200
        clock.time += 20
        assert (await ask(daemon, bearer("inference"))).status == 200


async def test_who_is_not_let_in_is_counted() -> None:
    limits = {"requests_per_minute": 1}
    async with running_daemon(access=access(key_limits=limits, failed_tries_per_minute=1)) as daemon:
        await once(daemon.port, "GET", "/nothing", b"", bearer("admin"))
        await once(daemon.port, "GET", "/metrics", b"", bearer("metrics"))
        for name in ("inference", "inference", "arena", "wrong", "wrong"):
            await ask(daemon, bearer(name))
        await ask(daemon, [])
        page = await once(daemon.port, "GET", "/metrics", b"", bearer("metrics"))
    counted = re.findall(r'arena_refused_requests_total\{code="(\w+)"\} (\S+)', page.body.decode())
    assert {code: float(count) for code, count in counted} == {
        "invalid_api_key": 2,
        "insufficient_scope": 1,
        "too_many_failed_tries": 1,
        "rate_limit_exceeded": 1,
        "insufficient_quota": 0,
        "store_unavailable": 0,
        "not_found": 1,
    }


# Keys of the store


async def test_nobody_is_let_in_until_the_keys_are_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "arena.sqlite"
    file.write_bytes(b"no database at all, but a file of some length" * 10)
    async with running_daemon(access=access(), arena={"database": sqlite_url(file)}) as daemon:
        for headers in ([], bearer("admin"), bearer("wrong")):
            answer = await once(daemon.port, "GET", "/v1/models", b"", headers)
            assert (answer.status, answer.error()["code"]) == (503, "store_unavailable")
            assert answer.header("retry-after") == "5"
            # Where the database is, and what is wrong with it, is nobody's business who has shown no key.
            assert answer.error()["message"] == "The server cannot read its keys now; its log has the reason."
        assert (await once(daemon.port, "GET", "/health")).status == 200
        assert (await once(daemon.port, "GET", "/")).status == 200
    assert f"{file} cannot be used" in caplog.text


async def test_a_key_of_the_store_lets_in_and_closes_the_door_to_others(tmp_path: Path) -> None:
    file = tmp_path / "arena.sqlite"
    now = datetime.now(UTC)
    record = KeyRecord("0" * 12, "a", sha256_of("a-token"), ["inference"], ["alpha"], None, now)
    past = KeyRecord("1" * 12, "b", sha256_of("b-token"), ["admin"], None, None, now, now - timedelta(days=1))

    def add(*records: KeyRecord) -> None:
        database = Database(sqlite_url(file), LIMIT_S)
        with database.transaction(write=True) as connection:
            for each in records:
                add_key(connection, each)
        database.close()

    await asyncio.to_thread(add, record, past)
    async with running_daemon(arena={"database": sqlite_url(file)}) as daemon:
        assert (await ask(daemon, [])).status == 401
        assert (await ask(daemon, [("Authorization", "Bearer a-token")])).status == 200
        assert (await ask(daemon, [("Authorization", "Bearer b-token")])).status == 401
        refused = await ask(daemon, [("Authorization", "Bearer a-token")], model="beta")
        assert (refused.status, refused.error()["code"]) == (403, "model_not_allowed")


async def test_a_new_configuration_s_keys_and_limits_are_in_force_at_once(tmp_path: Path) -> None:
    file = tmp_path / "arena.yaml"

    def write(*without: str, **section: Any) -> None:
        models = {name: {**model, "sleep_level": 0} for name, model in MODELS.items() if name not in without}
        file.write_text(json.dumps({"models": models, "access": section}, default=list))

    write(**access({"old": key("old", "admin")}))
    async with running_daemon(file=file) as daemon:
        write(**access({"new": key("new", "admin")}, key_limits={"requests_per_minute": 7}))
        assert (await once(daemon.port, "POST", "/admin/reload", b"", bearer("old"))).status == 200
        assert (await ask(daemon, bearer("old"))).status == 401
        answer = await ask(daemon, bearer("new"))
        assert (answer.status, limits_in(answer)["limit-requests"]) == (200, "7")
        write("beta", **access({"other": {"key_env": "ARENA_TEST_NO_SUCH_KEY"}}))
        failed = await once(daemon.port, "POST", "/admin/reload", b"", bearer("new"))
        assert (failed.status, failed.error()["code"]) == (400, "invalid_configuration")
        assert "ARENA_TEST_NO_SUCH_KEY is not set" in failed.error()["message"]
        assert (await ask(daemon, bearer("new"))).status == 200
        # All of it stays as it was.
        assert (await once(daemon.port, "GET", "/v1/models/beta", b"", bearer("new"))).status == 200


# Limits


async def test_answers_tell_what_is_left_and_beyond_it_one_is_told_when_to_come_back() -> None:
    clock = Hands()
    limits = {"requests_per_minute": 2, "tokens_per_minute": 600}
    async with running_daemon(access=access(key_limits=limits), clock=clock) as daemon:
        await use(daemon, "alpha")
        first = await ask(daemon, bearer("inference"))
        assert first.status == 200
        assert limits_in(first) == {
            "limit-requests": "2",
            "remaining-requests": "1",
            "reset-requests": "30s",
            "limit-tokens": "600",
            "remaining-tokens": "600",
            "reset-tokens": "0s",
        }
        streamed = await ask(daemon, bearer("inference"), stream=True)
        assert (streamed.status, limits_in(streamed)["remaining-requests"]) == (200, "0")
        refused = await ask(daemon, bearer("inference"))
        assert (refused.status, refused.error()["code"], refused.error()["type"]) == (
            429,
            "rate_limit_exceeded",
            "rate_limit_error",
        )
        assert refused.header("retry-after") == "30"
        assert limits_in(refused).keys() == limits_in(first).keys()
        assert limits_in(refused)["reset-requests"] == "1m0s"
        # A list is no question; another key's questions are its own.
        listed = await once(daemon.port, "GET", "/v1/models", b"", bearer("inference"))
        assert (listed.status, limits_in(listed)) == (200, {})
        assert (await ask(daemon, bearer("admin"))).status == 200


async def test_a_key_s_own_limits_stand_in_place_of_those_of_all() -> None:
    keys = {"a": key("a", "inference", limits={"requests_per_minute": 9}), "b": key("b", "inference")}
    async with running_daemon(access=access(keys, key_limits={"requests_per_minute": 4})) as daemon:
        told = [limits_in(await ask(daemon, bearer(name)))["limit-requests"] for name in ("a", "b")]
    assert told == ["9", "4"]


async def test_the_tokens_of_an_answer_are_its_key_s() -> None:
    async with running_daemon(access=access(key_limits={"tokens_per_minute": 5, "tokens_per_day": 6})) as daemon:
        assert (await ask(daemon, bearer("inference"), stream=True, max_tokens=3)).status == 200  # and 3 of the prompt
        account = daemon.daemon.limits._of_key("config:inference")
        await until(lambda: account.today, "them to be counted")
        assert account.today == 6
        refused = await ask(daemon, bearer("inference"))
        assert refused.status == 429
        assert limits_in(refused)["remaining-tokens"] == "0"
        assert (await ask(daemon, bearer("admin"))).status == 200


async def test_an_error_of_the_daemon_s_tells_it_too() -> None:
    async with running_daemon(access=access(key_limits={"requests_per_minute": 5})) as daemon:
        answer = await ask(daemon, bearer("inference"), model="nothing")
        assert (answer.status, limits_in(answer)["remaining-requests"]) == (404, "4")


async def test_the_day_s_tokens_come_back_at_midnight() -> None:
    async with running_daemon(access=access(key_limits={"tokens_per_day": 100})) as daemon:
        day = datetime.now(UTC).date()
        daemon.daemon.limits.restore(day, {"config:inference": 100})
        refused = await ask(daemon, bearer("inference"))
        if datetime.now(UTC).date() != day:
            return  # midnight came between: it is right that nothing was refused
        assert (refused.status, refused.error()["code"]) == (429, "insufficient_quota")
        assert 0 < int(refused.header("retry-after") or "") <= 86_400
        assert refused.header("x-should-retry") == "false"
        assert (await ask(daemon, bearer("admin"))).status == 200


async def test_without_keys_addresses_are_limited() -> None:
    async with running_daemon(access={"address_limits": {"requests_per_minute": 1}}) as daemon:
        assert (await ask(daemon, [])).status == 200
        assert (await ask(daemon, [])).status == 429
        trick = await once(daemon.port, "POST", f"{PATH}%0a", json.dumps(CHAT).encode())
        assert trick.status == 404


@pytest.mark.parametrize("path", ["/v1/arena/compare", "/v1/arena/battles"])
async def test_the_arena_counts(path: str) -> None:
    async with running_daemon(access=access(key_limits={"requests_per_minute": 1})) as daemon:
        body = {"models": ["alpha", "beta"], "messages": CHAT["messages"]}
        assert (await post(daemon.port, path, body, bearer("arena"))).status == 200
        assert (await post(daemon.port, path, body, bearer("arena"))).status == 429
        votes = await once(daemon.port, "GET", "/v1/arena/settings", b"", bearer("arena"))
        assert votes.status == 200


# A place among those that ask at the same time


@pytest_asyncio.fixture(loop_scope="module")
async def narrow() -> AsyncIterator[FakeDaemon]:
    """One request at a time, for each key."""
    async with running_daemon(access=access(key_limits={"concurrent_requests": 1})) as running:
        yield running


async def busy(daemon: FakeDaemon) -> bool:
    return (await ask(daemon, bearer("inference"), model="nothing")).status == 429


def running(daemon: FakeDaemon, name: str = "inference") -> int:
    """How many requests of that key are under way."""
    return daemon.daemon.limits._of_key(f"config:{name}").running


async def freed(daemon: FakeDaemon) -> None:
    await until(lambda: not running(daemon), "its place to be free")
    assert not await busy(daemon)


async def test_a_place_is_taken_until_the_last_byte(narrow: FakeDaemon) -> None:
    alpha = narrow.engines["alpha"]
    alpha.chunks.hold()
    async with connected(narrow.port) as client:
        client.post(PATH, {**CHAT, "stream": True}, bearer("inference"))
        alpha.chunks.release(1)
        status, headers = await client.head()
        assert status == 200
        first = await client.chunk()  # it comes while the rest is held: nothing is gathered
        assert first.startswith(b"data: ")
        assert not any(name.startswith("x-ratelimit") for name, _ in headers)
        refused = await ask(narrow, bearer("inference"))
        assert (refused.status, refused.error()["code"], refused.header("retry-after")) == (
            429,
            "rate_limit_exceeded",
            "1",
        )
        alpha.chunks.release()
        while await client.chunk():
            pass
    await freed(narrow)


async def test_a_client_that_leaves_in_mid_stream_gives_its_place_back(narrow: FakeDaemon) -> None:
    alpha = narrow.engines["alpha"]
    alpha.chunks.hold()
    async with connected(narrow.port) as client:
        client.post(PATH, {**CHAT, "stream": True}, bearer("inference"))
        alpha.chunks.release(1)
        await client.chunk_after_head()
        assert await busy(narrow)
        client.leave()
        await freed(narrow)


async def test_a_client_that_leaves_while_it_waits_for_its_model_gives_its_place_back(narrow: FakeDaemon) -> None:
    alpha = narrow.engines["alpha"]
    alpha.load_gate.hold()
    async with connected(narrow.port) as client:
        client.post(PATH, CHAT, bearer("inference"))
        await until(lambda: narrow.view("alpha").waiting, "the request to wait")
        assert await busy(narrow)
        client.leave()
        await freed(narrow)


async def test_a_client_that_leaves_before_its_body_is_whole_gives_its_place_back(narrow: FakeDaemon) -> None:
    async with connected(narrow.port) as client:
        client.request("POST", PATH, b'{"model"', [("Content-Length", "1000"), *bearer("inference")])
        await until(lambda: running(narrow), "the request to come in")
        assert await busy(narrow)
        client.leave()
        await freed(narrow)


async def test_a_client_that_leaves_a_battle_gives_its_place_back() -> None:
    async with running_daemon(access=access(key_limits={"concurrent_requests": 1})) as daemon:
        for engine in daemon.engines.values():
            engine.chunks.hold()
        async with connected(daemon.port) as client:
            body = {"models": ["alpha", "beta"], "messages": CHAT["messages"]}
            client.post("/v1/arena/battles", body, bearer("arena"))
            await client.chunk_after_head()
            assert (await post(daemon.port, "/v1/arena/compare", {}, bearer("arena"))).status == 429
            client.leave()
            await until(lambda: not running(daemon, "arena"), "its place to be free")
            assert (await post(daemon.port, "/v1/arena/compare", {}, bearer("arena"))).status == 400


async def test_the_limits_headers_are_the_daemon_s_alone() -> None:
    async with running_daemon(access=access(key_limits={"requests_per_minute": 5})) as daemon:
        alpha = daemon.engines["alpha"]
        await use(daemon, "alpha")
        reply = alpha.reply

        def with_limits(request: Any) -> Any:
            made = reply(request)
            own = ("X-RateLimit-Remaining-Requests", "77")
            return type(made)(made.chunks, made.status, [*made.headers, own], made.length)

        alpha.reply = with_limits
        answer = await ask(daemon, bearer("inference"))
        assert limits_in(answer)["remaining-requests"] == "4"
