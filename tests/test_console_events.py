"""The stream of events as lines."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from arena_server.console.api import Api
from arena_server.console.events import messages, told
from tests.test_console_daemon import decision_json, environment, waiter_json

AT = "2026-11-21T12:00:00"


def test_server_sent_events_are_read_as_the_standard_says() -> None:
    stream = (
        ": keep-alive\n\nevent: transition\nid: 7\ndata: {\ndata:}\n\ndata\n\n"
        "event:queue\ndata: 1\n\nevent: nothing\n\ndata:  2\n\nevent: cut off\ndata: 3"
    )
    assert list(messages(stream.split("\n"))) == [
        ("transition", "{\n}"),
        ("message", ""),
        ("queue", "1"),
        ("message", " 2"),
    ]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "transition",
            {"seq": 1, "at": AT, "model": "a", "was": "cold", "to": "loading", "why": "a request\nwants it"},
            "12:00:00 a: cold -> loading (a request wants it)",
        ),
        (
            "queue",
            {"seq": 2, "at": AT, "queue": [waiter_json(1, "a", "b"), waiter_json(2, "c", phase="")]},
            "12:00:00 queue: a + b 2.5s loading; c 2.5s",
        ),
        ("queue", {"seq": 2, "at": AT, "queue": []}, "12:00:00 queue: empty"),
        ("decision", {**decision_json(0, "evict", "a", "room", 3.0), "at": AT}, "12:00:00 evict a: room (3.0s)"),
        ("decision", {**decision_json(0, "wait", None, "busy"), "at": AT}, "12:00:00 wait: busy"),
        ("transition", {"at": AT}, 'transition {"at": "2026-11-21T12:00:00"}'),
        ("transition", [], "transition []"),
        ("news", {"a": 1}, 'news {"a": 1}'),
    ],
)
def test_an_event_is_a_line(name: str, value: object, line: str) -> None:
    assert told(name, json.dumps(value)) == line


@pytest.mark.parametrize("data", ["", "{", "\x1b[2Jno JSON"])
def test_an_event_that_is_no_json_is_shown_without_its_escapes(data: str) -> None:
    assert told("queue", data) == f"queue {data.removeprefix(chr(27) + '[2J')}".strip()


@contextlib.contextmanager
def open_stream(*chunks: bytes) -> Iterator[str]:
    """A stream as uvicorn sends it, in chunks, that stays open when they are sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while b"\r\n\r\n" not in connection.recv(65536):
                    pass
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                connection.sendall(head + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks))
                connection.recv(1)  # until the reader leaves

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_an_event_is_told_when_it_comes_and_not_at_the_end() -> None:
    with open_stream(b": hello\n\nevent: que", b"ue\ndata: 1\n\ndata: 2\n\n") as url, Api(url).events() as lines:
        stream = messages(lines)
        assert [next(stream), next(stream)] == [("queue", "1"), ("message", "2")]


def test_ctrl_c_ends_the_events_without_a_word() -> None:
    with open_stream(b"event: news\ndata: 1\n\n") as url:
        command = [sys.executable, "-m", "arena_server", "events", "--url", url]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "news 1\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130
