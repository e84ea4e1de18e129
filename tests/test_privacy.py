"""Prompts and answers are in no log and no file of the daemon's, unless `arena.store_texts` is on."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from arena_server.api.answer import Answer
from arena_server.log import set_up_logging
from arena_server.measurements import MeasurementStore
from arena_server.store.url import sqlite_url
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.fake_engine import FakeEngine
from tests.support.gate import until
from tests.support.raw_client import RawClient, connected, once, post
from tests.support.replies import DONE, Received, Reply, data, stream, whole
from tests.support.sse import EventReader

PROMPT, ANSWER = "marmalade7731", "quicksilver9942"
SECRETS = (PROMPT, ANSWER)
MESSAGES = [{"role": "user", "content": f"about {PROMPT} please"}]
CHAT = "/v1/chat/completions"
BATTLES = "/v1/arena/battles"
PAIR = ["alpha", "beta"]
FORM = (
    f'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nalpha\r\n'
    f'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n{PROMPT}\r\n--b--\r\n'
).encode()


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "alpha", "messages": MESSAGES, "prompt": PROMPT, "input": PROMPT, **more}


def tells(request: Received) -> Reply:
    """An engine's answer, with the secret one."""
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    if request.path.startswith("/v1/audio") or not request.json().get("stream"):
        return whole({"choices": [{"message": {"content": ANSWER}}], "usage": usage})
    chunks: list[dict[str, Any]] = [
        {"delta": {"reasoning": f"hm {ANSWER}"}},
        {"delta": {"content": ANSWER}, "finish_reason": "stop"},
    ]
    return stream([*(data({"choices": [{"index": 0, **c}]}) for c in chunks), data({"usage": usage}), DONE])


def refuses(request: Received) -> Reply:
    """An engine that does not take the request, and repeats it."""
    text = f"cannot make anything of {request.body.decode()} nor of {ANSWER}"
    return whole({"error": {"message": text, "type": "BadRequestError", "param": text, "code": 400}}, "400 Bad Request")


def breaks_off(request: Received) -> Reply:
    """An engine that tells of an error in the middle of its answer, and repeats the request."""
    error = {"error": {"message": f"{PROMPT} and {ANSWER}", "type": PROMPT, "param": None, "code": 500}}
    return stream([data({"choices": [{"delta": {"content": ANSWER}}]}), data(error), DONE])


def babbles(request: Received) -> Reply:
    """An engine whose events are none."""
    return stream([f"data: {{{PROMPT} {ANSWER}\n\n".encode(), f"data: [{json.dumps(ANSWER)}]\n\n".encode()])


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What goes to standard output and standard error."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


@pytest.fixture
def records(printed: io.StringIO) -> Iterator[list[logging.LogRecord]]:
    """Every record of every library, as the daemon at level `debug` handles them, and prints them."""
    kept: list[logging.LogRecord] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record)

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    set_up_logging("debug")
    root.addHandler(Keeps())
    try:
        yield kept
    finally:
        root.handlers = handlers
        root.setLevel(level)


@contextlib.asynccontextmanager
async def running(directory: Path, **arena: Any) -> AsyncIterator[FakeDaemon]:
    """A daemon whose files are in `directory`, and whose engines tell secrets."""
    measured = MeasurementStore.open(directory / "measurements.sqlite")
    arena["database"] = sqlite_url(directory / "arena.sqlite")
    async with running_daemon(store=measured, arena=arena, server={"max_body_bytes": 10_000}) as daemon:
        for engine in daemon.made:
            engine.reply = tells
        yield daemon


async def fought(daemon: FakeDaemon, path: str = BATTLES, body: dict[str, Any] | None = None) -> str:
    """One turn of a battle; its id."""
    async with connected(daemon.port) as client:
        client.post(path, {"messages": MESSAGES, "models": PAIR, "stop": [PROMPT]} if body is None else body)
        assert (await client.head())[0] == 200
        reader = EventReader(client)
        found: str = (await reader.until("battle")).data["id"]
        await reader.all()
    return found


async def answers(daemon: FakeDaemon) -> None:
    for path in (CHAT, "/v1/completions", "/v1/messages", "/v1/responses", "/tokenize"):
        for streaming in (False, True):
            answer = await post(daemon.port, f"{path}?x={PROMPT}", ask(stream=streaming), [("X-Title", PROMPT)])
            assert ANSWER.encode() in answer.body
    await once(
        daemon.port, "POST", "/v1/audio/transcriptions", FORM, [("Content-Type", "multipart/form-data; boundary=b")]
    )


async def bad_requests(daemon: FakeDaemon) -> None:
    bodies: list[bytes] = [
        f'{{"model": "alpha", "messages": [{{"content": "{PROMPT}'.encode(),
        f'{{"model": "alpha", "prompt": "{PROMPT}", }}'.encode(),
        f'{{"model": {{"{PROMPT}": 1}}}}'.encode(),
        f'"{PROMPT}"'.encode(),
        f'{{"model": "alpha", "prompt": "{PROMPT * 1000}"}}'.encode(),
        f'{{"messages": "{PROMPT}", "models": ["alpha", "beta"]}}'.encode(),
        f'{{"messages": [{{"role": "{PROMPT}", "content": 1}}], "models": ["alpha", "beta"]}}'.encode(),
        f'{{"{PROMPT}": 1, "content": ["{PROMPT}"], "vote": "{PROMPT}"}}'.encode(),
    ]
    for path in (CHAT, "/v1/arena/compare", BATTLES, f"{BATTLES}/none/turns", f"{BATTLES}/none/vote"):
        for body in bodies:
            answer = await once(daemon.port, "POST", path, body, [("Content-Type", "application/json")])
            assert 400 <= answer.status < 500
    await once(
        daemon.port, "POST", "/v1/audio/translations", FORM[:-20], [("Content-Type", "multipart/form-data; boundary=b")]
    )
    await once(daemon.port, "GET", f"/{PROMPT}?{PROMPT}")
    async with connected(daemon.port) as client:  # no HTTP at all
        client.send(f"{PROMPT}\r\n{ANSWER}\r\n\r\n".encode())
        await client.ended()


async def the_arena(daemon: FakeDaemon) -> None:
    for streaming in (True, False):
        answer = await post(
            daemon.port, "/v1/arena/compare", {"messages": MESSAGES, "models": PAIR, "stream": streaming}
        )
        assert ANSWER.encode() in answer.body
    battle = await fought(daemon)
    await fought(daemon, f"{BATTLES}/{battle}/turns", {"content": PROMPT})
    assert (await post(daemon.port, f"{BATTLES}/{battle}/vote", {"vote": "a"})).status == 200
    assert ANSWER.encode() in (await once(daemon.port, "GET", f"{BATTLES}/{battle}")).body


async def engines_that_fail(daemon: FakeDaemon) -> None:
    for reply in (refuses, breaks_off, babbles):
        for engine in daemon.made:
            engine.reply = reply
        for streaming in (False, True):
            await post(daemon.port, CHAT, ask(stream=streaming))
            await post(daemon.port, "/v1/arena/compare", {"messages": MESSAGES, "models": PAIR, "stream": streaming})
        await fought(daemon)
    for engine in daemon.made:
        engine.reply = tells


async def an_engine_that_dies(daemon: FakeDaemon) -> None:
    """In the middle of a stream, of a whole answer, of a comparison and of a battle."""
    asks: list[tuple[str, Any]] = [
        (CHAT, ask(stream=True)),
        (CHAT, ask()),
        ("/v1/arena/compare", {"messages": MESSAGES, "models": PAIR}),
        (BATTLES, {"messages": MESSAGES, "models": PAIR}),
    ]
    alpha = daemon.engines["alpha"]
    for path, body in asks:
        async with connected(daemon.port) as client:
            await halfway(alpha, client, path, body)
            await alpha.die(f"it died over {len(PROMPT)} letters")
            alpha.chunks.release()
            client.close()
        await until(lambda: not alpha.remains, "the remains to be gone")
        daemon.pool.reset("alpha")


async def halfway(engine: FakeEngine, client: RawClient, path: str, body: Any) -> Received:
    """Have a request answered in part."""
    engine.chunks.hold()
    before = len(engine.inference)
    client.post(path, body)
    await until(lambda: len(engine.inference) > before, "the request to come")
    engine.chunks.release(1)
    await until(lambda: engine.inference[before].sent, "some of the answer to leave")
    return engine.inference[before]


async def clients_that_leave(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    for path in (CHAT, "/v1/arena/compare", BATTLES):
        async with connected(daemon.port) as client:
            body = ask(stream=True) if path == CHAT else {"messages": MESSAGES, "models": PAIR}
            request = await halfway(alpha, client, path, body)
            client.leave()
            await until(partial(getattr, request, "aborted"), "the engine to see it")
        alpha.chunks.release()
    async with connected(daemon.port) as client:
        client.request("POST", CHAT, json.dumps(ask()).encode(), [("Content-Length", "5000")])
        await client.drain()
        client.leave()


async def a_defect(daemon: FakeDaemon) -> None:
    async def fails(*_: Any) -> None:
        raise RuntimeError("a defect")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answer, "start", fails)
        assert (await post(daemon.port, CHAT, ask())).status == 500


async def looks(daemon: FakeDaemon) -> bytes:
    """What operators see."""
    paths = ("/health", "/v1/models", "/admin/pool", "/admin/decisions", "/metrics", "/stats", "/v1/arena/leaderboard")
    found = [(await once(daemon.port, "GET", path)).body for path in paths]
    return b"".join(found)


RUNS: list[Callable[[FakeDaemon], Awaitable[None]]] = [
    *(answers, bad_requests, the_arena, engines_that_fail, an_engine_that_dies, clients_that_leave, a_defect)
]


async def the_run(daemon: FakeDaemon) -> bytes:
    """All of it; what the operators see of it, and what those who watch the events get."""
    async with connected(daemon.port) as watcher:
        watcher.request("GET", "/admin/events")
        await watcher.head()
        for run in RUNS:
            await run(daemon)
            await daemon.idle("alpha")
            await daemon.idle("beta")
        seen = await looks(daemon)
        daemon.pool.refuse_new()
        while chunk := await watcher.chunk():
            seen += chunk
    return seen


def found_in(directory: Path, *more: str) -> list[str]:
    """The files that hold a secret; `more` have to be there beside the usual ones."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert {"measurements.sqlite", "arena.sqlite", *more} <= {path.name for path in files}
    return [f"{s} in {path.name}" for path in files for s in SECRETS if s.encode() in path.read_bytes()]


async def test_nothing_of_a_run_holds_a_prompt_or_an_answer(
    tmp_path: Path, records: list[logging.LogRecord], printed: io.StringIO
) -> None:
    async with running(tmp_path) as daemon:
        seen = await the_run(daemon)
        # Beside the open database lies its journal.
        assert found_in(tmp_path, "arena.sqlite-wal") == []
    assert found_in(tmp_path) == []
    assert not [secret for secret in SECRETS if secret.encode() in seen]
    texts = [logging.Formatter("%(name)s: %(message)s %(args)r").format(r) for r in records]
    assert [text for text in texts if any(secret in text for secret in SECRETS)] == []
    lines = printed.getvalue().splitlines()
    assert [line for line in lines if any(secret in line for secret in SECRETS)] == []
    # It was a run whose log says something, of libraries, too.
    assert {"arena_server", "uvicorn"} <= {r.name.partition(".")[0] for r in records}
    assert len(lines) > 50


async def test_texts_are_in_the_database_if_they_are_to_be_kept(
    tmp_path: Path, records: list[logging.LogRecord]
) -> None:
    async with running(tmp_path, store_texts=True) as daemon:
        await the_arena(daemon)
    assert {where.partition(" ")[0] for where in found_in(tmp_path)} == set(SECRETS)
    assert [r.getMessage() for r in records if any(secret in r.getMessage() for secret in SECRETS)] == []
