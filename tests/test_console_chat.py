"""`arena-server chat`: a conversation in a terminal, one answer in a pipe, and before the daemon itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from arena_server.console.api import Api
from tests.support.gate import LIMIT_S
from tests.support.streaming import Streaming, Whole, refusal, streaming_daemon
from tests.test_console_compare import ESCAPES, HOSTILE, HOSTILE_SHOWN, left_behind, run
from tests.test_console_daemon import environment
from tests.test_console_live import Screen, terminal

READY = b">>> "


@pytest.fixture
def daemon() -> Iterator[Streaming]:
    with streaming_daemon() as running:
        running.serves("alpha", "org/beta", gpt="alpha")
        yield running


def chunk(finish_reason: str | None = None, **delta: str) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"


DONE = "data: [DONE]\n\n"
BROKEN = f"data: {json.dumps({'error': {'message': 'The engine is gone.'}})}\n\n{DONE}"


def answer(daemon: Streaming, *texts: str, finish_reason: str = "stop") -> None:
    """Answer the next request with that."""
    usage = f"data: {json.dumps({'choices': [], 'usage': {}})}\n\n"
    daemon.say(chunk(role="assistant", content=""), *(chunk(content=text) for text in texts))
    daemon.say(chunk(finish_reason), usage, DONE)
    daemon.end()


def say(screen: Screen, text: str) -> None:
    """Type a line, once it is asked for."""
    screen.until(READY)
    screen.type(text.encode() + b"\n")


def at_rest(screen: Screen) -> None:
    """Until the prompt waits: a signal that comes while CPython's readline still draws is not heard until later."""
    deadline = time.monotonic() + LIMIT_S
    while Path(f"/proc/{screen.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < deadline


def messages(daemon: Streaming, number: int = -1) -> list[tuple[str, str]]:
    """Roles and texts of a request."""
    return [(message["role"], message["content"]) for message in daemon.asked[number][1]["messages"]]


# A conversation


def test_a_conversation_holds_what_was_said(daemon: Streaming) -> None:
    options = ("--system", "Be brief.", "--temperature", "0", "--max-tokens", "9", "--seed", "1")
    with terminal("chat", "-m", "alpha", *options, "--url", daemon.url) as screen:
        daemon.say(": loading alpha, place 2 in the queue, about 12 s\n\n")
        say(screen, "Hello?")
        screen.until(b"loading alpha, place 2 in the queue, about 12 s")
        answer(daemon, "Good ", "day.")
        screen.until(b"\x1b[2K")  # what was waited for is wiped away
        screen.until(b"Good day.\r\n")
        answer(daemon, "Fine.", finish_reason="length")
        say(screen, "How are you?")
        screen.until(b"cut off: it had as many tokens")
        screen.until(READY)
        screen.type(b"\x04")
        assert screen.process.wait(60) == 0
    assert daemon.asked[0] == (
        "/v1/chat/completions",
        {
            "model": "alpha",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
            "temperature": 0.0,
            "max_tokens": 9,
            "seed": 1,
            "stream": True,
        },
    )
    assert messages(daemon, 1)[1:] == [("user", "Hello?"), ("assistant", "Good day."), ("user", "How are you?")]


def test_ctrl_c_stops_the_answer_and_what_has_come_is_kept(daemon: Streaming) -> None:
    with terminal("chat", "-m", "alpha", "--url", daemon.url) as screen:
        daemon.say(chunk(content="Half an ans"))
        say(screen, "one")
        screen.until(b"Half an ans")
        screen.process.send_signal(signal.SIGINT)
        screen.until(b"stopped")
        assert daemon.left.wait(60)
        daemon.left.clear()
        say(screen, "two")
        daemon.request(1)
        screen.process.send_signal(signal.SIGINT)  # before anything has come of it
        screen.until(b"nothing of it is kept")
        assert daemon.left.wait(60)
        answer(daemon, "ok")
        say(screen, "three")
        screen.until(b"ok\r\n")
        say(screen, "/exit")
        assert screen.process.wait(60) == 0
    assert messages(daemon) == [("user", "one"), ("assistant", "Half an ans"), ("user", "three")]


def test_what_is_typed_during_an_answer_waits_for_the_next_prompt(daemon: Streaming) -> None:
    with terminal("chat", "-m", "alpha", "--url", daemon.url) as screen:
        daemon.say(chunk(content="It"))
        say(screen, "one")
        screen.until(b"It")
        screen.type(b"ahead")
        answer(daemon, " is so.")
        assert b"ahead" not in screen.until(READY)
        screen.until(b"ahead")
        answer(daemon, "ok")
        screen.type(b" of it\n")
        screen.until(b"ok\r\n")
        say(screen, "/exit")
        assert screen.process.wait(60) == 0
    assert messages(daemon)[-1] == ("user", "ahead of it")


def test_a_failed_turn_is_told_and_can_be_sent_again(daemon: Streaming) -> None:
    with terminal("chat", "-m", "alpha", "--url", daemon.url) as screen:
        answer(daemon, "first")
        say(screen, "one")
        screen.until(b"first\r\n")
        daemon.say(refusal(503, "No room for `alpha`."))
        say(screen, "two")
        screen.until(b"\x1b[31mNo room for `alpha`.")
        daemon.say(chunk(content="Half"), BROKEN)
        daemon.end()
        screen.until(READY)
        screen.type(b"\x1b[A\n")  # the line before, by the arrow key
        screen.until(b"Half\r\n")
        screen.until(b"\x1b[31mThe engine is gone.")
        daemon.say(chunk(content="Half"))
        daemon.end()
        say(screen, "two")
        screen.until(b"hung up before the answer was whole")
        answer(daemon, "second")
        say(screen, "two")
        screen.until(b"second\r\n")
        say(screen, "/exit")
        assert screen.process.wait(60) == 0
    assert [messages(daemon, number)[2:] for number in range(1, 5)] == [[("user", "two")]] * 4


def test_the_commands(daemon: Streaming) -> None:
    with terminal("chat", "-m", "alpha", "--url", daemon.url) as screen:
        say(screen, "/help")
        screen.until(b"/reset         forget what was said")
        say(screen, "/model")
        screen.until(b"alpha, org/beta")
        say(screen, "/model org/bta")
        screen.until(b"no model is called `org/bta`; did you mean `org/beta`?")
        say(screen, "/model gpt")
        screen.until(b"goes on with gpt")
        say(screen, "/system  Be kind. ")
        screen.until(b"the system prompt is set")
        say(screen, "/nonsense at all")
        screen.until(b"/nonsense is no command (/help)")
        say(screen, "")
        answer(daemon, "yes")
        say(screen, '"""/one')
        screen.until(b"... ")
        screen.type(b'  two"""\n')
        screen.until(b"yes\r\n")
        say(screen, "/reset")
        screen.until(b"forgotten")
        say(screen, "/system")
        screen.until(b"no system prompt")
        answer(daemon, "no")
        say(screen, "again")
        screen.until(b"no\r\n")
        say(screen, "/exit")
        assert screen.process.wait(60) == 0
    assert [body["model"] for _, body in daemon.asked] == ["gpt", "gpt"]
    assert messages(daemon, 0) == [("system", "Be kind."), ("user", "/one\n  two")]
    assert messages(daemon, 1) == [("user", "again")]


def test_ctrl_c_clears_the_line_and_twice_it_leaves(daemon: Streaming) -> None:
    with terminal("chat", "-m", "alpha", "--url", daemon.url) as screen:
        screen.until(READY)
        screen.type(b"never sent")
        screen.until(b"never sent")
        at_rest(screen)
        screen.process.send_signal(signal.SIGINT)
        screen.until(b"Ctrl-C once more")
        answer(daemon, "ok")
        say(screen, "sent")
        screen.until(b"ok\r\n")
        for end in (b"Ctrl-C once more", b"\r\n"):
            screen.until(READY)
            at_rest(screen)
            screen.process.send_signal(signal.SIGINT)
            screen.until(end)
        assert screen.process.wait(60) == 0
    assert messages(daemon) == [("user", "sent")]


@pytest.mark.parametrize("answering", [False, True])
def test_an_end_from_outside_gives_the_terminal_back(daemon: Streaming, answering: bool) -> None:
    with terminal("chat", "-m", "alpha", "--url", daemon.url) as screen:
        if answering:
            say(screen, "one")
            screen.until(b"asked alpha")
        else:
            screen.until(READY)
            at_rest(screen)
        screen.process.send_signal(signal.SIGTERM)
        assert "Traceback" not in left_behind(screen, 143)


def test_what_a_model_writes_is_shown_and_never_obeyed(daemon: Streaming) -> None:
    with terminal("chat", "-m", "alpha", "--url", daemon.url) as screen:
        daemon.say(chunk(reasoning=HOSTILE), chunk(reasoning_content="hm"))
        answer(daemon, *HOSTILE, "!")
        say(screen, "Hello?")
        screen.until(b"31m!")
        shown = ESCAPES.sub("", screen.written.decode())
        say(screen, "/exit")
        assert screen.process.wait(60) == 0
    assert f"{HOSTILE_SHOWN}hm\r\n\r\n{HOSTILE_SHOWN}!" in shown
    for part in (b"\x1b[2J", b"\x1b]0;", b"\x07", b"\x08", b"\xc2\x9b"):
        assert part not in screen.written


def test_an_unknown_model_is_an_error_before_anything_is_typed(daemon: Streaming) -> None:
    with terminal("chat", "-m", "alhpa", "--url", daemon.url) as screen:
        screen.until(b"arena-server: no model is called `alhpa`; did you mean `alpha`?")
        screen.until(b"arena-server: There are: alpha, org/beta")
        assert screen.process.wait(60) == 1
        assert READY not in screen.written


def test_a_prompt_in_a_terminal_is_answered_once(daemon: Streaming) -> None:
    answer(daemon, "ok")
    with terminal("chat", "-m", "alpha", "Hello?", "--url", daemon.url) as screen:
        screen.until(b"ok\r\n")
        assert screen.process.wait(60) == 0
        assert READY not in screen.written


# One answer


def test_a_pipe_gets_the_answer_and_nothing_else(daemon: Streaming) -> None:
    daemon.say(": loading alpha, place 1 in the queue, about 12 s\n\n", chunk(reasoning="hm"))
    answer(daemon, "Good\n", *HOSTILE, "day")
    done = run(daemon.url, "chat", "-m", "alpha", stdin="Hello?")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"Good\n{HOSTILE_SHOWN}day\n", "")
    assert messages(daemon) == [("user", "Hello?")]


@pytest.mark.parametrize("prompt", ["Hello?", "-"])
def test_a_prompt_may_be_given(daemon: Streaming, prompt: str) -> None:
    answer(daemon, "ok\n")
    done = run(daemon.url, "chat", "-m", "alpha", prompt, stdin="from the pipe")
    assert (done.returncode, done.stdout) == (0, "ok\n")
    assert messages(daemon) == [("user", "from the pipe" if prompt == "-" else prompt)]


@pytest.mark.parametrize(
    ("pieces", "shown", "said"),
    [
        ([chunk(content="Half"), BROKEN], "Half\n", "The engine is gone."),
        ([BROKEN], "", "The engine is gone."),
        ([chunk(content="Half")], "Half\n", " hung up before the answer was whole"),
        (['data: {"choices": 1}\n\n'], "", "cannot use what"),
        (["data: {\n\n"], "", "is not of JSON"),
    ],
)
def test_an_answer_that_breaks_off_is_status_1(daemon: Streaming, pieces: Sequence[str], shown: str, said: str) -> None:
    daemon.say(*pieces)
    daemon.end()
    done = run(daemon.url, "chat", "-m", "alpha", "Hello?")
    assert (done.returncode, done.stdout) == (1, shown)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_name_it_is_the_only_model(daemon: Streaming) -> None:
    done = run(daemon.url, "chat", "Hello?")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "arena-server: which model? -m NAME, one of: alpha, org/beta\n"
    daemon.serves("alpha", gpt="alpha")
    answer(daemon, "ok")
    assert run(daemon.url, "chat", "Hello?").stdout == "ok\n"
    assert daemon.asked[0][1]["model"] == "alpha"
    daemon.serves()
    assert "none is served" in run(daemon.url, "chat", "Hello?").stderr


@pytest.mark.parametrize("command", [("chat", "-m", "alpha"), ("compare", "-m", "alpha", "-m", "beta")])
def test_a_prompt_that_is_missing_is_not_waited_for(daemon: Streaming, command: tuple[str, ...]) -> None:
    keyboard, theirs = os.openpty()
    process = [sys.executable, "-m", "arena_server", *command, "--url", daemon.url]
    try:
        done = subprocess.run(
            process, stdin=theirs, capture_output=True, text=True, timeout=60, check=False, env=environment()
        )
    finally:
        os.close(keyboard)
        os.close(theirs)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "arena-server: ask what? Give a prompt, or - to read it from standard input\n"


def test_the_commands_import_nothing_of_the_daemon() -> None:
    code = (
        "import sys, arena_server.console.chat, arena_server.console.compare;"
        "print(sorted({'aiohttp', 'fastapi', 'pydantic', 'uvicorn', 'uvloop', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


# Patience


@pytest.mark.parametrize("streamed", [True, False])
def test_a_daemon_that_loads_a_model_first_is_waited_for(daemon: Streaming, streamed: bool) -> None:
    impatient = Api(daemon.url, timeout_s=0.05)
    with ThreadPoolExecutor(1) as executor:

        def asked() -> Any:
            if not streamed:
                return impatient.whole("/v1/chat/completions", {})[1]
            with impatient.streamed("/v1/chat/completions", {}) as lines:
                return list(lines)

        found = executor.submit(asked)
        daemon.request(0)
        time.sleep(0.2)  # silence, for longer than others are waited for
        daemon.say(DONE if streamed else Whole("late"))
        daemon.end()
        assert found.result(LIMIT_S) == (DONE.split("\n")[:-1] if streamed else "late")
