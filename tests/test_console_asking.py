"""`arena-server compare` and `chat` before the daemon itself (over fake engines)."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import LIMIT_S, until
from tests.test_console_compare import ASK_TWO, Done, run
from tests.test_console_daemon import environment
from tests.test_console_live import terminal


@pytest.fixture
async def real() -> AsyncIterator[FakeDaemon]:
    async with running_daemon(pool={"wait_notice_s": 0.01}) as running:
        yield running


async def ask(real: FakeDaemon, *arguments: str, **more: Any) -> Done:
    return await asyncio.to_thread(run, real.url, *arguments, **more)


# Comparing


async def test_the_daemon_answers_for_both(real: FakeDaemon) -> None:
    done = await ask(real, "compare", "one two three", "-m", "alpha", "-m", "beta", "--max-tokens", "4")
    assert (done.returncode, done.stderr) == (0, "")
    texts = [line for line in done.stdout.splitlines() if line and line[0] != "["]
    assert texts == ["=== alpha ===", "one two three one ", "=== beta ===", "one two three one "]
    done = await ask(real, "compare", "one", "-m", "gpt-4o", "-m", "beta", "--json", "--max-tokens", "1")
    assert [side["text"] for side in json.loads(done.stdout)["sides"]] == ["one ", "one "]


async def test_the_daemons_refusals_are_its_words(real: FakeDaemon) -> None:
    for arguments in ((), ("--json",)):
        done = await ask(real, "compare", "Why?", "-m", "alpha", "-m", "nope", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("arena-server: The model `nope` does not exist. Available models: `alpha`,")
    three = ("-m", "alpha", "-m", "beta", "-m", "org/gamma")
    done = await ask(real, "compare", "Why?", *three, "--require")
    assert (done.returncode, done.stdout) == (1, "")
    done = await ask(real, "compare", "Why?", *three, "--max-tokens", "1")
    assert done.returncode == 0
    assert done.stdout.startswith("[They do not fit together, so one after the other: ")
    assert done.stdout.count("Why? ") == 3


async def test_a_model_that_does_not_start_is_an_error_in_its_place(real: FakeDaemon) -> None:
    real.engines["beta"].fail_loads("no such weights")
    done = await ask(real, "compare", "Why?", "-m", "alpha", "-m", "beta")
    assert done.returncode == 1
    assert "no such weights" in done.stdout + done.stderr


async def test_ctrl_c_frees_both_engines(real: FakeDaemon) -> None:
    for name in ("alpha", "beta"):
        real.engines[name].chunks.hold()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "arena_server", *ASK_TWO, "--url", real.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    received = [await real.engines[name].request(0) for name in ("alpha", "beta")]
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(LIMIT_S):
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")
    await until(lambda: all(request.aborted for request in received), "both engines to be left")
    for name in ("alpha", "beta"):
        await real.idle(name)


# Chatting


async def test_the_daemon_answers_a_prompt(real: FakeDaemon) -> None:
    done = await ask(real, "chat", "-m", "gpt-4o", "--max-tokens", "4", stdin="one two")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one two one two \n", "")
    done = await ask(real, "chat", "one")
    assert done.stderr == "arena-server: which model? -m NAME, one of: alpha, beta, org/gamma\n"
    done = await ask(real, "chat", "-m", "nope", "one")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("arena-server: The model `nope` does not exist. Available models: `alpha`,")


async def test_the_daemons_notices_are_shown_while_a_model_loads(real: FakeDaemon) -> None:
    engine = real.engines["alpha"]
    engine.load_gate.hold()
    with terminal("chat", "-m", "alpha", "one two", "--max-tokens", "2", "--url", real.url) as screen:
        await asyncio.to_thread(screen.until, b"loading alpha, place 1 in the queue, about ")
        engine.load_gate.release()
        await asyncio.to_thread(screen.until, b"one two \r\n")
        assert await asyncio.to_thread(screen.process.wait, 60) == 0


async def test_ctrl_c_in_a_chat_frees_the_engine(real: FakeDaemon) -> None:
    real.engines["alpha"].chunks.hold()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "arena_server", "chat", "-m", "alpha", "one", "--url", real.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    received = await real.engines["alpha"].request(0)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(LIMIT_S):
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")
    await until(lambda: received.aborted, "the engine to be left")
    await real.idle("alpha")
