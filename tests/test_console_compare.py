"""`arena-server compare`: in a terminal, in a pipe, and before the daemon itself (over fake engines)."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.streaming import Streaming, Whole, refusal, streaming_daemon
from tests.test_console_daemon import environment
from tests.test_console_live import ENTER_SCREEN, LEAVE_SCREEN, Screen, terminal

ASK_TWO = ("compare", "Why?", "-m", "alpha", "-m", "beta")
HOME = b"\x1b[H"
FRAMES = 300  # ten come in a second
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]markup[/red] :smile: \x9b31m\x08\x1b"
HOSTILE_SHOWN = "]0;owned[red]markup[/red] :smile: 31m"

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def daemon() -> Iterator[Streaming]:
    with streaming_daemon() as running:
        yield running


def begin(daemon: Streaming, *models: str, together: bool = True) -> None:
    letters = "abcd"[: len(models)]
    sides = [{"side": letter, "model": model} for letter, model in zip(letters, models, strict=True)]
    how = "together" if together else "one_after_another"
    daemon.event("start", sides=sides, co_residency=how, order=list(letters))


def finished(side: str, **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": 42, "total_tokens": 47}
    took = {"waited_s": 0.1, "ttft_s": 0.31, "tokens_per_s": 45.25}
    return {"side": side, "finish_reason": "stop", "usage": usage, **took, **more}


def finish(daemon: Streaming, *sides: str) -> None:
    for side in sides:
        daemon.event("done", **finished(side))
    daemon.event("end")
    daemon.end()


def frame(screen: Screen, *parts: str) -> list[str]:
    """The rows of the first whole screen from now on in which all those are."""
    for _ in range(FRAMES):
        text = ESCAPES.sub("", screen.until(HOME).decode()).replace("\r", "")
        if all(part in text for part in parts):
            return [row.rstrip() for row in text.split("\n")]
    raise AssertionError(f"{parts} are not on the screen:\n{text}")


def left_behind(screen: Screen, status: int) -> str:
    """What is on the terminal once the process has ended with that status, below the screen that it took."""
    while screen.process.poll() is None or select.select([screen.fd], [], [], 0)[0]:
        if select.select([screen.fd], [], [], 0.01)[0]:
            screen.written += os.read(screen.fd, 65536)
    assert screen.process.returncode == status
    return ESCAPES.sub("", screen.written.rpartition(LEAVE_SCREEN)[2].decode()).replace("\r", "")


def run(url: str, *arguments: str, stdin: str = "") -> Done:
    command = [sys.executable, "-m", "arena_server", *arguments, "--url", url]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, check=False, env=environment()
    )


# In a terminal


def test_two_columns_follow_both_sides_to_their_figures(daemon: Streaming) -> None:
    with terminal(*ASK_TWO, "--url", daemon.url) as screen:
        begin(daemon, "alpha", "beta")
        daemon.event("status", side="a", phase="loading", detail="loading alpha", place=1, eta_s=1000.0)
        daemon.event("status", side="b", phase="queued", detail="waiting for room for beta", place=2, eta_s=2000.0)
        rows = frame(screen, "loading alpha, about 17m left", "waiting for room for beta, place 2 in ")
        assert re.fullmatch(r"alpha +loading \d\.\ds │ beta +queued \d\.\ds", rows[0])
        assert rows[2].startswith("░")
        for side in "ab":
            daemon.event("status", side=side, phase="ready", detail="awake", place=None, eta_s=None)
        daemon.event("delta", side="b", text="Because ")
        daemon.event("delta", side="b", text="of that.")
        rows = frame(screen, "Because of that.")
        assert re.fullmatch(r"alpha +ready \d\.\ds │ beta +answering \d\.\ds", rows[0])
        daemon.event("delta", side="a", reasoning="Let me think.")
        frame(screen, "Let me think.", "thinking")
        daemon.event("delta", side="a", text="It is so.")
        daemon.event("done", **finished("b", finish_reason="length", waited_s=12.0))
        rows = frame(screen, "It is so.", "42 tokens, first after 0.3s")
        assert (len(rows), rows[1]) == (24, "─" * 38 + " │ " + "─" * 38)
        assert rows[0].endswith(" done")
        finish(daemon, "a")
        left = left_behind(screen, 0).split("\n")
    assert re.fullmatch(r"alpha +done │ beta +done *", left[0])
    assert re.fullmatch(r"Let me think. +│ Because of that. *", left[2])
    assert re.fullmatch(r"It is so. +│ tokens/s, waited 12s, cut off by the *", left[4])
    (asked,) = daemon.asked
    assert asked == (
        "/v1/arena/compare",
        {
            "models": ["alpha", "beta"],
            "messages": [{"role": "user", "content": "Why?"}],
            "co_residency": "prefer",
            "stream": True,
        },
    )


@pytest.mark.parametrize(("width", "height", "across"), [(80, 24, True), (200, 50, True), (40, 20, False)])
def test_a_text_longer_than_the_screen_shows_its_end_and_is_whole_afterwards(
    daemon: Streaming, width: int, height: int, across: bool
) -> None:
    with terminal(*ASK_TWO, "--url", daemon.url) as screen:
        begin(daemon, "alpha", "beta")
        screen.until(ENTER_SCREEN)
        screen.resize(width, height)
        for number in range(150):
            for side in "ab":
                daemon.event("delta", side=side, text=f"line {number} of {side}\n")
        daemon.event("delta", side="b", text="last")
        while len(rows := frame(screen, "last", "line 149 of a")) != height or max(map(len, rows)) > width:
            pass
        assert any("alpha" in row and "beta" in row for row in rows) == across
        assert "line 0 of a" not in "\n".join(rows)
        finish(daemon, "a", "b")
        left = left_behind(screen, 0)
    assert all(f"line {number} of {side}" in left for number in range(150) for side in "ab")
    assert left.count("42 tokens") == 2


def test_what_a_model_writes_is_shown_and_never_obeyed(daemon: Streaming) -> None:
    with terminal(*ASK_TWO, "--url", daemon.url) as screen:
        begin(daemon, "alpha", "be\x1b[31mta")
        for letter in HOSTILE:
            daemon.event("delta", side="a", text=letter)
        daemon.event("error", side="b", error={"message": HOSTILE})
        daemon.event("delta", side="a", text="!")
        frame(screen, HOSTILE_SHOWN[:30], "31m!")
        finish(daemon, "a")
        left_behind(screen, 1)
    for part in (b"\x1b[2J", b"\x1b]0;", b"\x07", b"\x08", b"\xc2\x9b"):
        assert part not in screen.written


def test_a_side_that_fails_is_red_and_the_other_goes_on(daemon: Streaming) -> None:
    with terminal(*ASK_TWO, "--url", daemon.url) as screen:
        begin(daemon, "alpha", "beta")
        daemon.event("error", side="a", error={"message": "The engine is gone."})
        screen.until(b"\x1b[31mThe engine is gone.")
        daemon.event("delta", side="b", text="I am here.")
        rows = frame(screen, "I am here.")
        assert re.fullmatch(r"alpha +failed │ beta +answering \d\.\ds", rows[0])
        finish(daemon, "b")
        left_behind(screen, 1)


def test_ctrl_c_leaves_the_daemon_and_keeps_what_has_come(daemon: Streaming) -> None:
    with terminal(*ASK_TWO, "--url", daemon.url) as screen:
        begin(daemon, "alpha", "beta")
        daemon.event("delta", side="a", text="half an ans")
        frame(screen, "half an ans")
        screen.process.send_signal(signal.SIGINT)  # not typed: this terminal is not the one that controls the process
        left = left_behind(screen, 130)
        assert daemon.left.wait(60)
    assert "half an ans" in left
    assert "unfinished" in left
    assert "Traceback" not in left


def test_a_stream_that_breaks_off_is_an_error_after_what_has_come(daemon: Streaming) -> None:
    with terminal(*ASK_TWO, "--url", daemon.url) as screen:
        begin(daemon, "alpha", "beta")
        daemon.event("delta", side="a", text="half an ans")
        frame(screen, "half an ans")
        daemon.end()
        left = left_behind(screen, 1)
    assert left.index("half an ans") < left.index(f"arena-server: {daemon.url} hung up before all had answered")


def test_no_screen_is_taken_where_the_daemon_refuses(daemon: Streaming) -> None:
    daemon.say(refusal(404, "The model `beta` does not exist. Available models: `alpha`."))
    with terminal(*ASK_TWO, "--url", daemon.url) as screen:
        screen.until(b"arena-server: The model `beta` does not exist. Available models: `alpha`.")
        assert screen.process.wait(60) == 1
        assert ENTER_SCREEN not in screen.written


# Elsewhere


def test_a_pipe_gets_a_section_after_the_other(daemon: Streaming) -> None:
    begin(daemon, "alpha", "beta", together=False)
    daemon.event("status", side="a", phase="queued", detail="waits", place=1, eta_s=None)
    daemon.event("delta", side="b", text="second\n")
    daemon.event("done", **finished("b", usage={}, ttft_s=None, tokens_per_s=None))
    daemon.event("news", side="z")
    daemon.event("delta", side="a", reasoning="hm")
    daemon.event("delta", side="a", text=f"fi{HOSTILE}rst")
    finish(daemon, "a")
    done = run(daemon.url, *ASK_TWO)
    assert (done.returncode, done.stderr) == (0, "")
    shown = HOSTILE_SHOWN + "rst"
    assert done.stdout.splitlines() == [
        "[They do not fit together, so one after the other: alpha, beta]",
        "",
        "=== alpha ===",
        "[thoughts]",
        "hm",
        "[answer]",
        f"fi{shown}",
        "[42 tokens, first after 0.3s, 45.2 tokens/s]",
        "",
        "=== beta ===",
        "second",
    ]


def test_a_pipe_gets_what_has_come_before_an_error(daemon: Streaming) -> None:
    begin(daemon, "alpha", "beta")
    daemon.event("error", side="a", error={"message": "out of\nmemory"})
    daemon.event("delta", side="b", text="half")
    daemon.end()
    done = run(daemon.url, *ASK_TWO)
    assert done.returncode == 1
    assert done.stdout == "=== alpha ===\n[error: out of memory]\n\n=== beta ===\nhalf\n[not finished]\n"
    assert done.stderr == f"arena-server: {daemon.url} hung up before all had answered\n"


@pytest.mark.parametrize(("error", "status"), [({}, 0), ({"error": {"message": "gone"}}, 1)])
def test_json_is_what_the_daemon_says(daemon: Streaming, error: dict[str, Any], status: int) -> None:
    sides = [{"side": "a", "model": "alpha", "text": "ä\x1b"}, {"side": "b", "model": "beta", **error}]
    daemon.say(Whole({"co_residency": "together", "sides": sides}))
    options = ("--system", "Be brief.", "--temperature", "0.5", "--max-tokens", "7", "--seed", "3", "--require")
    done = run(daemon.url, *ASK_TWO, "--json", *options)
    assert (done.returncode, done.stderr) == (status, "")
    assert json.loads(done.stdout) == {"co_residency": "together", "sides": sides}
    assert daemon.asked[0][1] == {
        "models": ["alpha", "beta"],
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
        "co_residency": "require",
        "temperature": 0.5,
        "max_tokens": 7,
        "seed": 3,
        "stream": False,
    }


@pytest.mark.parametrize("value", [{"sides": 1}, []])
def test_json_of_something_else_is_one_line(daemon: Streaming, value: Any) -> None:
    daemon.say(Whole(value))
    done = run(daemon.url, *ASK_TWO, "--json")
    assert done.returncode == 1
    assert done.stderr == "arena-server: the answer has no sides (is this an arena-server?)\n"


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        ("event: start\ndata: {}\n\n", "cannot use what"),
        ('event: delta\ndata: {"side": "c", "text": "x"}\n\n', "cannot use what"),
        ("event: start\ndata: <html>\n\n", "is not of JSON"),
    ],
)
def test_a_stream_of_something_else_is_one_line(daemon: Streaming, piece: str, said: str) -> None:
    daemon.say(piece)
    daemon.end()
    done = run(daemon.url, *ASK_TWO)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("prompt", [(), ("-",)])
def test_the_prompt_may_come_from_standard_input(daemon: Streaming, prompt: tuple[str, ...]) -> None:
    begin(daemon, "alpha", "beta")
    finish(daemon, "a", "b")
    done = run(daemon.url, "compare", *prompt, "-m", "alpha", "-m", "beta", stdin="Two\nlines\n")
    assert done.returncode == 0
    assert daemon.asked[0][1]["messages"][0]["content"] == "Two\nlines\n"
    done = run(daemon.url, "compare", *prompt, "-m", "alpha", "-m", "beta", stdin=" \n")
    assert (done.returncode, done.stderr) == (1, "arena-server: the prompt is empty\n")


@pytest.mark.parametrize("count", [1, 5])
def test_another_number_of_models_is_a_wrong_command_line(daemon: Streaming, count: int) -> None:
    models = [part for number in range(count) for part in ("-m", f"m{number}")]
    done = run(daemon.url, "compare", "Why?", *models)
    assert (done.returncode, done.stdout) == (2, "")
    assert "two to four models" in done.stderr
    assert not daemon.asked
