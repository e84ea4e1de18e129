"""The smoke test against daemons that are well, and against some that are not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from arena_server.engine.base import EngineError
from tests.scripts.run import SCRIPTS
from tests.support.daemon_app import MODELS, FakeDaemon, running_daemon
from tests.support.gate import Gate, until
from tests.support.replies import DONE, Received, Reply, data, reply_to, stream, whole

TOKEN_S = 0.002


@dataclass(frozen=True)
class Said:
    """What a run of the script said."""

    status: int
    out: str
    err: str

    def line(self, check: str) -> str:
        """The line of one check."""
        return next(line for line in self.out.splitlines() if line.split()[1:2] == [check])


async def smoke(url: str, *args: str, **env: str) -> Said:
    process = await asyncio.create_subprocess_exec(
        SCRIPTS / "smoke_test.sh",
        *(url, *args),
        cwd="/",
        env={"PATH": os.environ["PATH"], **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


class Pace(Gate):
    """Lets pieces of an answer out one by one, as tokens come."""

    def __init__(self, piece_s: float = TOKEN_S) -> None:
        super().__init__()
        self.piece_s = piece_s

    async def wait(self) -> None:
        """Pass through, in time."""
        await asyncio.sleep(self.piece_s)
        await super().wait()


@contextlib.asynccontextmanager
async def paced_daemon(models: Mapping[str, Mapping[str, Any]] = MODELS, **sections: Any) -> AsyncIterator[FakeDaemon]:
    """A daemon whose engines answer at a model's pace."""
    async with running_daemon(models, **sections) as daemon:
        for engine in daemon.made:
            engine.chunks = Pace()
        yield daemon


def streaming(reply: Callable[[Received], Reply]) -> Callable[[Received], Reply]:
    """This answer to a request that streams, and the usual one to others."""
    return lambda request: reply(request) if _is_stream(request) else reply_to(request)


async def test_all_is_well_with_a_daemon_that_is() -> None:
    async with paced_daemon() as daemon:
        said = await smoke(daemon.url)
    assert said.status == 0, said
    assert [line.split()[:2] for line in said.out.splitlines()[1:-1]] == [
        ["ok", "health"],
        ["ok", "models"],
        ["ok", "chat"],
        ["ok", "stream"],
        ["ok", "parallel"],
    ]
    assert said.out.endswith("All is well\n")
    assert "256 events over" in said.line("stream")
    assert "alpha and beta" in said.line("parallel")
    assert [len(daemon.engines[name].requests) for name in ("alpha", "beta", "org/gamma")] == [3, 1, 0]


async def test_the_models_asked_are_those_that_are_named() -> None:
    async with paced_daemon() as daemon:
        said = await smoke(f"{daemon.url}/", "--model", "org/gamma", "--model", "gpt-4o")
    assert said.status == 0, said
    assert "org/gamma and gpt-4o" in said.line("parallel")
    assert [len(daemon.engines[name].requests) for name in ("alpha", "beta", "org/gamma")] == [1, 0, 3]


async def test_it_says_that_it_waits_for_a_load() -> None:
    async with paced_daemon() as daemon:
        alpha = daemon.engines["alpha"]
        alpha.load_gate.hold()
        run = asyncio.create_task(smoke(daemon.url))
        await until(lambda: alpha.progress is not None, "the load to begin")
        alpha.load_gate.release()
        said = await run
    assert said.status == 0, said
    assert "alpha may have to be loaded: waiting up to 900 s" in said.err


async def test_one_model_has_nobody_to_be_parallel_with() -> None:
    async with paced_daemon({"alpha": MODELS["alpha"]}) as daemon:
        said = await smoke(daemon.url)
    assert said.status == 0, said
    assert said.line("parallel").startswith("--")


async def test_a_model_that_is_not_there_is_named() -> None:
    async with running_daemon() as daemon:
        said = await smoke(daemon.url, "--model", "delta")
    assert said.status == 1
    assert "no model delta (there are alpha beta org/gamma)" in said.line("models")
    assert "chat" not in said.out  # nothing is asked of it


async def test_an_engines_error_is_told_in_its_own_words() -> None:
    async with running_daemon() as daemon:
        daemon.engines["alpha"].reply = lambda _: whole(
            {"error": {"message": 'no "chat template" here', "type": "BadRequestError"}}, "400 Bad Request"
        )
        said = await smoke(daemon.url)
    assert said.status == 1
    assert 'status 400: no "chat template" here' in said.line("chat")
    assert said.line("stream").startswith("FAIL")
    assert "alpha: status 400" in said.line("parallel")


async def test_a_model_that_cannot_be_loaded_is_told_with_the_reason() -> None:
    async with paced_daemon() as daemon:
        daemon.engines["beta"].load_error = EngineError("CUDA out of memory")
        said = await smoke(daemon.url)
    assert said.status == 1
    assert said.line("chat").startswith("ok")
    assert "beta: status 503" in said.line("parallel")
    assert "CUDA out of memory" in said.line("parallel")


async def test_an_answer_without_text_is_no_answer() -> None:
    async with running_daemon() as daemon:
        daemon.engines["alpha"].reply = lambda _: whole(
            {"choices": [{"message": {"role": "assistant", "content": ""}}]}
        )
        said = await smoke(daemon.url)
    assert said.status == 1
    assert "no text in the answer" in said.line("chat")


def _text(count: int) -> list[bytes]:
    return [data({"choices": [{"delta": {"content": str(n)}}]}) for n in range(count)]


def _is_stream(request: Received) -> bool:
    return bool(request.body and request.json().get("stream"))


async def test_a_stream_that_takes_long_and_comes_all_at_once_is_kept_back_somewhere() -> None:
    async with running_daemon({"alpha": MODELS["alpha"]}) as daemon:
        alpha = daemon.engines["alpha"]
        alpha.chunks = Pace(1.1)
        alpha.reply = streaming(lambda _: stream([b"".join([*_text(20), DONE])]))
        said = await smoke(daemon.url)
        asked = [request for request in alpha.requests if _is_stream(request)]
    assert said.status == 1
    assert "nothing of 20 events came before the end" in said.line("stream")
    assert "3 times" in said.line("stream")
    assert len(asked) == 3


async def test_a_stream_that_is_over_at_once_may_come_in_one_piece() -> None:
    async with running_daemon({"alpha": MODELS["alpha"]}) as daemon:
        daemon.engines["alpha"].reply = streaming(lambda _: stream([b"".join([*_text(20), DONE])]))
        said = await smoke(daemon.url)
    assert said.status == 0, said
    assert "20 events" in said.line("stream")
    assert "too quick to tell" in said.line("stream")


async def test_an_answer_of_one_event_is_an_answer() -> None:
    async with running_daemon({"alpha": MODELS["alpha"]}) as daemon:
        daemon.engines["alpha"].chunks = Pace(1.1)
        daemon.engines["alpha"].reply = streaming(lambda _: stream([b"".join([*_text(1), DONE])]))
        said = await smoke(daemon.url)
    assert said.status == 0, said
    assert said.line("stream").startswith("ok")


async def test_a_stream_that_came_all_at_once_by_chance_is_asked_for_again() -> None:
    replies = [stream([b"".join([*_text(20), DONE])]), stream([*_text(2), DONE])]
    async with running_daemon({"alpha": MODELS["alpha"]}) as daemon:
        daemon.engines["alpha"].chunks = Pace(1.1)
        daemon.engines["alpha"].reply = streaming(lambda _: replies.pop(0))
        said = await smoke(daemon.url)
    assert said.status == 0, said
    assert "2 events over" in said.line("stream")


async def test_a_daemon_without_models_is_told_so() -> None:
    health = json.dumps({"status": "healthy", "available_models": [], "loaded_models": []})
    async with another_server(200, health, []) as url:
        said = await smoke(url)
    assert said.status == 1
    assert "the daemon has no models" in said.line("health")
    assert "unbound" not in said.err


async def test_a_stream_without_its_end_is_broken() -> None:
    async with paced_daemon() as daemon:
        events = [data({"choices": [{"delta": {"content": str(n)}}]}) for n in range(20)]
        daemon.engines["alpha"].reply = streaming(lambda _: stream(events))
        said = await smoke(daemon.url)
    assert said.status == 1
    assert "ended after 20 events without [DONE]" in said.line("stream")


async def test_an_error_in_a_stream_is_seen() -> None:
    async with paced_daemon() as daemon:
        event = data({"choices": [{"delta": {"content": "one"}}]})
        error = data({"error": {"message": "the engine died", "type": "server_error"}})
        daemon.engines["alpha"].reply = streaming(lambda _: stream([event, event, error, DONE]))
        said = await smoke(daemon.url)
    assert said.status == 1
    assert "broke off: the engine died" in said.line("stream")


@contextlib.asynccontextmanager
async def another_server(status: int, text: str, seen: list[web.Request]) -> AsyncIterator[str]:
    """Not the daemon; yields where it answers, whatever it is asked."""

    async def answer(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(status=status, text=text)

    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_what_is_not_the_daemon_is_not_taken_for_it() -> None:
    seen: list[web.Request] = []
    async with another_server(200, "<html>Welcome to nginx!</html>", seen) as url:
        said = await smoke(url)
    assert said.status == 1
    assert "is not arena-server's: <html>Welcome to nginx!</html>" in said.line("health")
    assert [request.path for request in seen] == ["/health"]


async def test_a_refusal_is_told() -> None:
    error = json.dumps({"error": {"message": "not open to you", "type": "invalid_request_error"}})
    async with another_server(403, error, []) as url:
        said = await smoke(url)
    assert said.status == 1
    assert "status 403: not open to you" in said.line("health")


async def test_nobody_there_is_told() -> None:
    async with another_server(200, "", []) as url:
        pass  # its port is free now
    said = await smoke(url)
    assert said.status == 1
    assert "connect" in said.line("health").lower()


async def test_the_key_is_sent_from_a_file_or_the_environment(tmp_path: Path) -> None:
    seen: list[web.Request] = []
    file = tmp_path / "key"
    file.write_text("secret-1\n")
    async with another_server(200, "", seen) as url:
        await smoke(url, "--key-file", str(file), ARENA_API_KEY="another")
        await smoke(url, ARENA_API_KEY="secret-2")
        await smoke(url)
    assert [request.headers.get("Authorization") for request in seen] == ["Bearer secret-1", "Bearer secret-2", None]


async def test_a_daemon_that_asks_for_a_key_gets_it_or_that_is_told() -> None:
    key = "sk-arena-of-this-smoke-test"
    keys = {"smoke": {"sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": ("inference",)}}
    async with paced_daemon(access={"keys": keys}) as daemon:
        assert (await smoke(daemon.url, ARENA_API_KEY=key)).status == 0
        said = await smoke(daemon.url)
        assert said.status == 1
        assert "status 401" in said.line("models")
        assert "ARENA_API_KEY, or --key-file FILE" in said.line("models")
        said = await smoke(daemon.url, ARENA_API_KEY="sk-arena-another")
        assert "--key-file" not in said.line("models")


async def test_a_wrong_command_line_is_told() -> None:
    for args, why in (
        (["localhost:8000"], "http://"),
        (["http://a", "http://b"], "one BASE_URL"),
        (["http://a", "--timeout", "soon"], "whole seconds"),
        (["http://a", "--model"], "needs a value"),
        (["http://a", "--key-file", "/dev/null"], "there is no key in it"),
        (["http://a", "--key-file", "/nowhere"], "there is no key in it"),
    ):
        said = await smoke(*args)
        assert (said.status, said.out) == (2, "")
        assert why in said.err
