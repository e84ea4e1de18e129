"""A remote model's engine: its health, its end, its key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from arena_server.clock import Clock
from arena_server.config_model import ModelConfig
from arena_server.engine.base import EngineError
from arena_server.engine.client import EngineLost, EngineUnreachable
from arena_server.engine.remote import RemoteEngine
from arena_server.engine.remote_failures import RemoteRefuses
from arena_server.errors import ConfigError
from tests.support.daemon_app import Hands
from tests.support.gate import LIMIT_S, turns, until
from tests.support.remote_server import RemoteServer, listed, remote_server
from tests.support.replies import Reply, stream, whole

KEY = "sk-of-this-daemon"
JSON = [(b"content-type", b"application/json")]
CHAT, BODY = "/v1/chat/completions", b'{"model": "org/there", "messages": [{"content": "one two"}]}'
ENVIRONMENT = {"FAR_KEY": f"{KEY}\n"}  # as `$(cat file)` leaves none, but an editor may


@pytest.fixture
async def server() -> AsyncIterator[RemoteServer]:
    async with remote_server() as server:
        yield server


@pytest.fixture
def engines(server: RemoteServer) -> Engines:
    return Engines(server)


class Engines:
    """Makes engines, each 10 ms from one look to the next."""

    def __init__(self, server: RemoteServer) -> None:
        self.server = server
        self.made: list[RemoteEngine] = []

    def __call__(self, check_every_s: float = 0.01, clock: Clock | None = None, **keys: Any) -> RemoteEngine:
        settings = {"model": "org/there", "backend_url": self.server.url, "retries": 0, **keys}
        config = ModelConfig.model_validate(settings)
        engine = RemoteEngine("far", config, ENVIRONMENT, clock=clock, check_every_s=check_every_s)
        self.made.append(engine)
        return engine


@pytest.fixture(autouse=True)
async def stopped(engines: Engines) -> AsyncIterator[None]:
    yield
    for engine in engines.made:
        await engine.stop()


async def reason(engine: RemoteEngine) -> str:
    """Why it does not load."""
    with pytest.raises(EngineError) as failed:
        await engine.load()
    assert "\n" not in str(failed.value)
    assert engine.log_tail[-1] == str(failed.value)
    return str(failed.value)


def status(server: RemoteServer, line: str, *headers: tuple[str, str]) -> None:
    """Answer looks at its health so."""
    server.health = lambda: Reply([], line, headers, 0)


async def test_its_name_there_is_the_one_to_ask_for(engines: Engines) -> None:
    engine = engines()
    assert (engine.name, engine.served_name, engine.remote) == ("far", "org/there", True)


async def test_a_look_shows_the_key_and_asks_for_the_list_of_models(server: RemoteServer, engines: Engines) -> None:
    await engines(api_key_env="FAR_KEY").load()
    (look,) = server.requests
    assert (look.method, look.path) == ("GET", "/v1/models")
    assert look.header("authorization") == f"Bearer {KEY}"


@pytest.mark.parametrize("line", ["401 Unauthorized", "403 Forbidden"])
async def test_a_refused_key_is_told_of_by_its_variable(server: RemoteServer, engines: Engines, line: str) -> None:
    status(server, line)
    origin = f"http://127.0.0.1:{server.port}"
    assert (
        await reason(engines(api_key_env="FAR_KEY")) == f"{origin} refuses the API key in FAR_KEY (status {line[:3]})"
    )
    what = f"{origin} wants an API key: `api_key_env` has to name the environment variable that holds it"
    assert await reason(engines()) == f"{what} (status {line[:3]})"


async def test_a_url_that_leads_elsewhere_or_nowhere_is_told_of(server: RemoteServer, engines: Engines) -> None:
    asked = f"{server.url}/models"
    status(server, "308 Permanent Redirect", ("location", "https://there.example/v1/models"))
    what = f"{asked} redirects to https://there.example/v1/models: `backend_url` has to be what it stands for"
    assert await reason(engines()) == what
    status(server, "404 Not Found")
    what = f"there is no {asked} (status 404): `backend_url` has to be the API's base, up to its /v1"
    assert await reason(engines()) == what
    status(server, "500 Internal Server Error")
    assert await reason(engines()) == f"{asked} answers with status 500"
    await server.kill()
    assert await reason(engines()) == f"http://127.0.0.1:{server.port} cannot be reached: connection refused"


async def test_one_that_never_answers_is_given_up(
    server: RemoteServer, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arena_server.engine.remote_health.TIMEOUT_S", 0.1)
    server.health_gate.hold()
    assert await reason(engines()) == f"http://127.0.0.1:{server.port} does not answer within 0.1 s"


async def test_one_that_is_too_busy_to_list_its_models_is_there(server: RemoteServer, engines: Engines) -> None:
    status(server, "429 Too Many Requests")
    await engines().load()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"data": 1}', b'{"data": [1, {}, {"id": 2}]}', b"\xff", b"[" * 10_000]
)
async def test_whatever_else_it_lists_is_no_failure(
    server: RemoteServer, engines: Engines, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server.health = lambda: Reply([body], length=len(body))
    await engines().load()
    assert caplog.records == []


async def test_a_model_that_is_not_listed_is_warned_of_once(
    server: RemoteServer, engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    server.health = lambda: listed("org/a", "org/b\nc", "\x1b[31m\u202eevil")
    engine = engines()
    await engine.load()
    looks = server.looks
    await until(lambda: server.looks > looks + 2, "more looks")
    what = f"http://127.0.0.1:{server.port} does not list the model `org/there`, but `org/a`, `org/b c`, `[31m evil`"
    assert [r.getMessage() for r in caplog.records] == [f"[far] {what}"]


async def test_it_has_died_after_three_failed_looks_in_a_row(server: RemoteServer, engines: Engines) -> None:
    engine = engines()
    await engine.load()
    died = asyncio.create_task(engine.died())
    broken, good = whole({}, "500 Internal Server Error"), listed("org/there")
    left = [broken, broken, good, broken, broken, broken]
    server.health = lambda: left.pop(0) if left else good
    assert await asyncio.wait_for(died, LIMIT_S) == f"{server.url}/models answers with status 500"
    assert left == []


async def test_nobody_looks_while_it_answers(server: RemoteServer, engines: Engines) -> None:
    clock = Hands()
    engine = engines(clock=clock)
    await engine.load()
    status(server, "500 Internal Server Error")
    async with engine.client.post(CHAT, JSON, BODY) as answer:
        await answer.read()
    await asyncio.sleep(0.2)  # time for 20 looks, in which no time passes for the engine
    assert server.looks == 1
    clock.time += 1
    await asyncio.wait_for(engine.died(), LIMIT_S)
    assert server.looks == 4


async def test_a_request_that_finds_no_way_to_it_is_its_end_at_once(server: RemoteServer, engines: Engines) -> None:
    engine = engines(check_every_s=1000)
    await engine.load()
    died = asyncio.create_task(engine.died())
    await server.kill()
    with pytest.raises(EngineUnreachable):
        await engine.client.post(CHAT, JSON, BODY).__aenter__()
    assert await asyncio.wait_for(died, 1) == f"http://127.0.0.1:{server.port} cannot be reached: connection refused"


async def test_an_answer_that_breaks_off_is_its_end_if_it_is_gone(server: RemoteServer, engines: Engines) -> None:
    server.reply = lambda _: stream([b"data: 1\n\n"] * 3)
    server.chunks.hold()
    server.chunks.release(1)
    engine = engines(check_every_s=1000)
    await engine.load()
    died = asyncio.create_task(engine.died())
    async with engine.client.post(CHAT, JSON, BODY) as answer:
        chunks = answer.chunks()
        await anext(chunks)
        await server.kill()
        with pytest.raises(EngineLost):
            await anext(chunks)
    assert "cannot be reached" in await asyncio.wait_for(died, 1)


async def test_an_answer_that_breaks_off_is_not_its_end_if_it_is_well(server: RemoteServer, engines: Engines) -> None:
    async def cut(*_: object) -> bool:
        return False

    engine = engines(check_every_s=1000)
    await engine.load()
    died = asyncio.create_task(engine.died())
    server.by_hand = cut
    with pytest.raises(EngineLost):
        await engine.client.post(CHAT, JSON, BODY).__aenter__()
    await until(lambda: server.looks == 2, "a look")
    await turns()
    assert not died.done()
    died.cancel()


async def test_a_key_that_is_no_longer_good_is_its_end(server: RemoteServer, engines: Engines) -> None:
    engine = engines(check_every_s=1000, api_key_env="FAR_KEY")
    await engine.load()
    status(server, "401 Unauthorized")
    server.reply = lambda _: whole({}, "401 Unauthorized")
    with pytest.raises(RemoteRefuses):
        await engine.client.post(CHAT, JSON, BODY).__aenter__()
    assert "refuses the API key in FAR_KEY" in await asyncio.wait_for(engine.died(), 1)


async def test_a_request_of_an_earlier_life_does_not_end_the_next(server: RemoteServer, engines: Engines) -> None:
    engine = engines(check_every_s=1000)
    await engine.load()
    before = engine.client
    await engine.stop()
    await engine.load()
    before._watch.gone("long ago")
    before._watch.doubted()
    died = asyncio.create_task(engine.died())
    await turns()
    assert not died.done()
    assert server.looks == 2
    died.cancel()


async def test_a_key_is_shown_to_nobody_else(
    server: RemoteServer, engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = engines(api_key_env="FAR_KEY")
    await engine.load()
    server.reply = lambda _: whole({"error": {"message": KEY}}, "401 Unauthorized")
    with pytest.raises(RemoteRefuses) as refused:
        await engine.client.post(CHAT, JSON, BODY).__aenter__()
    await server.kill()
    died = await engine.died()
    assert KEY not in "\n".join([caplog.text, died, *engine.log_tail, str(refused.value.body()), repr(refused.value)])


@pytest.mark.parametrize(
    ("environment", "what"),
    [
        ({}, "is not set (it has to hold the API key for https://far.example/v1)"),
        ({"FAR_KEY": "  "}, "is not set (it has to hold the API key for https://far.example/v1)"),
        ({"FAR_KEY": "sk-a\nsk-b"}, "holds no API key: something in it is not a letter, digit or sign"),
        ({"FAR_KEY": "sk-ä"}, "holds no API key: something in it is not a letter, digit or sign"),
    ],
)
def test_a_key_that_is_not_there_or_none_is_told_of_when_it_is_made(environment: dict[str, str], what: str) -> None:
    settings = {"model": "m", "backend_url": "https://far.example/v1", "api_key_env": "FAR_KEY"}
    with pytest.raises(ConfigError) as wrong:
        RemoteEngine("far", ModelConfig.model_validate(settings), environment)
    assert wrong.value.lines == [f"models.far.api_key_env: the environment variable FAR_KEY {what}"]


def test_a_proxy_that_is_of_no_use_is_told_of_without_its_password() -> None:
    config = ModelConfig.model_validate({"model": "m", "backend_url": "https://far.example/v1"})
    with pytest.raises(ConfigError, match=r"^models.far.backend_url: the proxy .* only HTTP proxies") as wrong:
        RemoteEngine("far", config, {"HTTPS_PROXY": "socks5://user:word@p:1080"})
    assert "word" not in str(wrong.value)


async def test_a_key_that_goes_unencrypted_is_warned_of(
    server: RemoteServer, engines: Engines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("arena_server.engine.remote_url._is_loopback", lambda host: False)
    engine = engines(api_key_env="FAR_KEY")
    await engine.load()
    said = [r.getMessage() for r in caplog.records]
    assert said == [f"[far] the API key goes to http://127.0.0.1:{server.port} unencrypted (use https)"]
    assert KEY not in caplog.text
