"""The console's commands as processes, before a daemon that says what the test wants."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.test_console_daemon import (
    Reply,
    console,
    decision_json,
    environment,
    error,
    model_json,
    pool_json,
    reply,
    stand_in,
)

UNKNOWN = "The model `alhpa` does not exist. Available models: `Alpha`, `org/beta`."


def accepted(residency: str) -> Reply:
    return reply({"model": model_json("Alpha", residency)}, 202)


def test_status_without_a_terminal_is_printed_once_and_plain() -> None:
    with stand_in(model_json("Alpha", "awake", gib=10, requests_total=7)) as daemon:
        daemon.say("GET /admin/decisions", reply({"decisions": [decision_json(3, "load", "Alpha", "wanted", 9.0)]}))
        done = console("status", "--url", daemon.url)
        assert daemon.asked == ["GET /admin/pool", "GET /admin/decisions"]
        assert console("status", "--once", "--url", f"{daemon.url}/").stdout == done.stdout
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    rows = done.stdout.splitlines()
    assert rows[0] == f"arena-server 9.8.7  up 62m  {daemon.url}"
    assert "  Alpha  awake        12s    -     -         7  10.0     -     -" in rows
    assert rows[-1] == "12:00:03 load Alpha: wanted (9.0s)"


def test_the_url_may_come_from_the_environment() -> None:
    with stand_in(model_json("Alpha")) as daemon:
        done = console("status", env={"ARENA_URL": daemon.url})
    assert done.returncode == 0
    assert daemon.url in done.stdout


def test_json_is_what_the_daemon_says() -> None:
    with stand_in() as daemon:
        body = '{"models":  [],\n "new": "ä"}'
        daemon.say("GET /admin/pool", Reply(body.encode()))
        done = console("status", "--json", "--url", daemon.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, body + "\n", "")


@pytest.mark.parametrize("columns", ["40", "nonsense", "0"])
def test_columns_are_heeded_where_they_make_sense(columns: str) -> None:
    with stand_in(model_json("a-model-with-a-name-that-is-long-enough-to-be-cut")) as daemon:
        done = console("status", "--url", daemon.url, env={"COLUMNS": columns})
    assert max(map(len, done.stdout.splitlines())) <= (40 if columns == "40" else 160)
    assert ("…" in done.stdout) == (columns == "40")


def test_a_terminal_without_the_letters_gets_others() -> None:
    with stand_in() as daemon:
        done = console("status", "--url", daemon.url, env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "command", [("status",), ("status", "--json"), ("load", "a"), ("pin", "a"), ("reload",), ("events",)]
)
def test_nobody_there_is_one_line(command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    done = console(*command, "--url", url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"arena-server: nothing answers at {url} (is the daemon running? --url or ARENA_URL)\n"


@pytest.mark.parametrize("command", [("status",), ("load", "a"), ("reload",), ("events",)])
def test_a_proxys_error_page_is_one_line(command: tuple[str, ...]) -> None:
    page = Reply(b"<html><body>502 Bad Gateway</body></html>", 502, "text/html")
    with stand_in() as daemon:
        for request in ("GET /admin/pool", "POST /admin/models/a/load", "POST /admin/reload", "GET /admin/events"):
            daemon.say(request, page)
        done = console(*command, "--url", daemon.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"arena-server: {daemon.url}/admin/")
    assert done.stderr.endswith(" answers 502 Bad Gateway, without a daemon's reason\n")


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (("status", "--url", "ftp://a"), {}, "argument --url: 'ftp://a': not a URL such as http://127.0.0.1:8000"),
        (("status",), {"ARENA_URL": "http://a:b"}, "argument --url: 'http://a:b': "),
        (("status", "--interval", "0"), {}, "argument --interval: '0': not from 0.1 to 3600 seconds"),
        (("status", "--interval", "nan"), {}, "argument --interval: 'nan': not from 0.1 to 3600 seconds"),
        (("load",), {}, "the following arguments are required: NAME"),
    ],
)
def test_a_wrong_command_line_is_status_2(arguments: tuple[str, ...], env: dict[str, str], said: str) -> None:
    done = console(*arguments, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_load_is_followed_until_the_model_is_awake() -> None:
    def loading(phase: str, fraction: float, eta_s: float) -> dict[str, object]:
        progress = {"phase": phase, "fraction": fraction}
        return pool_json(model_json("Alpha", "loading", loading=progress, eta_s=eta_s))

    with stand_in() as daemon:
        daemon.say("POST /admin/models/alias/load", accepted("cold"))
        weights = [loading("loading weights", 0.1, 30.0), loading("loading weights", 0.9, 12.0)]
        daemon.pools(*weights, loading("compiling", 0.5, 5.0), pool_json(model_json("Alpha", "awake")))
        done = console("load", "alias", "--url", daemon.url)
    assert (done.returncode, done.stderr) == (0, "")
    *rows, last = done.stdout.splitlines()
    assert rows == [
        "Alpha: cold",
        "Alpha: loading: loading weights, about 30s left",
        "Alpha: loading: compiling, about 5.0s left",
        "Alpha: awake",
    ]
    assert last.startswith("Alpha: awake after ")


def test_a_load_that_fails_is_status_1_with_the_reason() -> None:
    failed = model_json("Alpha", "failed", failures=1, error="ValueError: no memory\nfor the cache")
    with stand_in() as daemon:
        daemon.say("POST /admin/models/Alpha/load", accepted("loading"))
        daemon.pools(pool_json(failed))
        done = console("load", "Alpha", "--url", daemon.url)
    assert (done.returncode, done.stdout) == (1, "Alpha: loading\n")
    assert done.stderr == "arena-server: Alpha has failed: ValueError: no memory for the cache\n"


def test_a_model_that_is_drained_first_says_so() -> None:
    with stand_in() as daemon:
        daemon.say("POST /admin/models/Alpha/sleep", accepted("awake"))
        draining = model_json("Alpha", "awake", running=2, draining="asked by the operator")
        daemon.pools(pool_json(draining), pool_json(model_json("Alpha", "asleep")))
        done = console("sleep", "Alpha", "--url", daemon.url)
    assert done.returncode == 0
    assert "Alpha: awake, draining: asked by the operator\n" in done.stdout


def test_a_model_may_leave_the_configuration_meanwhile() -> None:
    with stand_in() as daemon:
        daemon.say("POST /admin/models/Alpha/stop", accepted("stopping"))
        daemon.pools(pool_json())
        done = console("stop", "Alpha", "--url", daemon.url)
    assert (done.returncode, done.stderr) == (1, "arena-server: Alpha is no longer configured\n")


def test_no_wait_does_not() -> None:
    with stand_in() as daemon:
        daemon.say("POST /admin/models/Alpha/stop", accepted("stopping"))
        done = console("stop", "Alpha", "--no-wait", "--url", daemon.url)
        assert daemon.asked == ["POST /admin/models/Alpha/stop"]
    assert (done.returncode, done.stdout) == (0, "Alpha: stopping\n")


@pytest.mark.parametrize(
    ("action", "said"),
    [("pin", "pinned"), ("unpin", "no longer pinned"), ("reset", "its failures are forgotten")],
)
def test_what_has_no_end_is_not_waited_for(action: str, said: str) -> None:
    with stand_in() as daemon:
        daemon.say(f"POST /admin/models/org%2Fbeta/{action}", accepted("awake"))
        done = console(action, "org/beta", "--url", daemon.url)
        assert len(daemon.asked) == 1
    assert (done.returncode, done.stdout, done.stderr) == (0, f"Alpha: {said} (awake)\n", "")


def test_an_unknown_model_gets_the_daemons_words_and_the_closest_name() -> None:
    with stand_in(model_json("Alpha"), model_json("org/beta", aliases=["gpt-4o"])) as daemon:
        for name in ("alhpa", "gtp-4o", "zzz"):
            daemon.say(f"POST /admin/models/{name}/load", error(404, UNKNOWN, "model_not_found"))
        done = [console("load", name, "--url", daemon.url) for name in ("alhpa", "gtp-4o", "zzz")]
    assert [(d.returncode, d.stdout) for d in done] == [(1, "")] * 3
    first = f"arena-server: {UNKNOWN}\n"
    assert done[0].stderr == first + "arena-server: Did you mean `Alpha`?\n"
    assert done[1].stderr == first + "arena-server: Did you mean `gpt-4o`?\n"
    assert done[2].stderr == first


def test_another_refusal_is_the_daemons_words() -> None:
    with stand_in() as daemon:
        daemon.say("POST /admin/models/Alpha/sleep", error(409, "Alpha is pinned."))
        done = console("sleep", "Alpha", "--url", daemon.url)
    assert (done.returncode, done.stderr) == (1, "arena-server: Alpha is pinned.\n")


def test_reload_says_what_changed() -> None:
    nothing = {"added": [], "removed": [], "changed": [], "unchanged": ["a"], "needs_restart": []}
    much = {**nothing, "added": ["b", "c"], "removed": ["d"], "changed": ["e"], "needs_restart": ["server.port"]}
    with stand_in() as daemon:
        daemon.say("POST /admin/reload", reply(nothing), reply(much))
        done = [console("reload", "--url", daemon.url) for _ in range(2)]
    assert [(d.returncode, d.stderr) for d in done] == [(0, "")] * 2
    assert done[0].stdout == "no model has changed\n"
    assert done[1].stdout.splitlines() == [
        "added: b, c",
        "removed: d",
        "changed: e",
        "changed, but only a restart of the daemon will apply it: server.port",
    ]


def test_a_configuration_that_cannot_be_used_is_status_2() -> None:
    with stand_in() as daemon:
        daemon.say("POST /admin/reload", error(400, "a.yaml: one\na.yaml: two"))
        done = console("reload", "--url", daemon.url)
    assert (done.returncode, done.stderr) == (2, "arena-server: a.yaml: one\narena-server: a.yaml: two\n")


def test_events_are_lines_until_the_stream_ends() -> None:
    event = {"seq": 1, "at": "2026-11-21T12:00:00Z", "model": "a", "was": "cold", "to": "loading", "why": "wanted"}
    stream = f": hello\n\nevent: transition\ndata: {json.dumps(event)}\n\n"
    with stand_in() as daemon:
        daemon.say("GET /admin/events", Reply(stream.encode(), kind="text/event-stream; charset=utf-8"))
        done = console("events", "--url", daemon.url)
    assert (done.returncode, done.stdout) == (1, "12:00:00 a: cold -> loading (wanted)\n")
    assert done.stderr == f"arena-server: {daemon.url} has ended the stream of events (has the daemon stopped?)\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with stand_in(model_json("Alpha")) as daemon, open(write_end, "wb") as pipe:
        command = [sys.executable, "-m", "arena_server", "status", "--url", daemon.url]
        done = subprocess.run(
            command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=environment()
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_leaves_the_wait_and_not_the_action() -> None:
    with stand_in(model_json("Alpha", "loading")) as daemon:
        daemon.say("POST /admin/models/Alpha/load", accepted("loading"))
        command = [sys.executable, "-m", "arena_server", "load", "Alpha", "--url", daemon.url]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "Alpha: loading\n"  # it waits from here on
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "arena-server: no longer waiting; the load goes on (arena-server status)\n"


def test_the_console_imports_nothing_of_the_daemon() -> None:
    code = (
        "import sys, arena_server.console.live, arena_server.console.actions, arena_server.console.events;"
        "print(sorted({'aiohttp', 'fastapi', 'pydantic', 'uvicorn', 'uvloop', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
