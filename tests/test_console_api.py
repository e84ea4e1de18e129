"""What answers at the URL, and what does not."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from arena_server.console.api import Api, BadAnswer, NoAnswer, Refused, checked_url
from arena_server.console.picture import Picture
from arena_server.console.shape import WrongShape, read
from arena_server.errors import ConfigError
from tests.test_console_daemon import Reply, error, model_json, pool_json, reply, stand_in


@contextlib.contextmanager
def speaking(answer: bytes | None) -> Iterator[str]:
    """A socket that answers every connection with those bytes; None: with silence."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while b"\r\n\r\n" not in connection.recv(65536):
                    pass
                if answer is None:
                    connection.recv(1)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("https://arena.example/pool/", "https://arena.example/pool"),
        ("http://[::1]:80/", "http://[::1]:80"),
    ],
)
def test_a_url_may_leave_out_what_is_plain(text: str, url: str) -> None:
    assert checked_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://a",
        "http://",
        "http://a:b",
        "http://a:99999",
        "http://me:secret@a",
        "a?b",
        "a b",
        "http://ä",
        "a" * 64,
        "a..b",
    ],
)
def test_another_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        checked_url(text)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(NoAnswer) as caught:
        Api(url).pool()
    assert str(caught.value) == f"nothing answers at {url} (is the daemon running? --url or ARENA_URL)"


def test_an_address_that_cannot_be_reached() -> None:
    with pytest.raises(NoAnswer, match=r"cannot reach http://255\.255\.255\.255:9: "):
        Api("http://255.255.255.255:9").pool()


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (None, NoAnswer, "did not answer within 0.2 s"),
        (b"", NoAnswer, "hung up before it had answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", NoAnswer, "hung up before it had answered"),
        (b"SSH-2.0-OpenSSH_9\r\n", BadAnswer, "does not speak HTTP"),
    ],
)
def test_a_broken_conversation(answer: bytes | None, kind: type[Exception], message: str) -> None:
    with speaking(answer) as url, pytest.raises(kind, match=message):
        Api(url, timeout_s=0.2).pool()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Reply(b"<html>502 Bad Gateway</html>", 502, "text/html"), "/admin/pool answers 502 Bad Gateway, without a"),
        (Reply(b"", 301), "answers 301 Moved Permanently"),
        (Reply(b"<html>hello</html>", 200, "text/html"), "does not answer with JSON"),
        (Reply(b"\xff\xfe", 200), "does not answer with JSON"),
        (Reply(b"[" * 100_000, 200), "does not answer with JSON"),
        (Reply(b'{"error": "no"}', 500), "answers 500 Internal Server Error"),
        (Reply(b'{"error": {"message": 7}}', 500), "answers 500 Internal Server Error"),
        (Reply(b"[]", 200), "`the answer` is not of the kind `dict`"),
        (reply(pool_json(model_json("a", since_s="x"))), r"`models\.0\.since_s` is not a number"),
    ],
)
def test_an_answer_that_is_no_daemons(answer: Reply, message: str) -> None:
    with stand_in() as daemon:
        daemon.say("GET /admin/pool", answer)
        with pytest.raises(BadAnswer, match=message):
            Api(daemon.url).pool()


def test_a_daemons_refusal_is_its_own_message_without_control_characters() -> None:
    with stand_in() as daemon:
        daemon.say("POST /admin/models/a/stop", error(409, "one\n\x1b[31mtwo\x1b[0m", "busy"))
        with pytest.raises(Refused) as caught:
            Api(daemon.url).act("a", "stop")
    assert (str(caught.value), caught.value.http_status, caught.value.error_code) == ("one\ntwo", 409, "busy")


def test_a_name_may_hold_anything() -> None:
    with stand_in() as daemon:
        daemon.say("POST /admin/models/org%2Fa%20%3F%23%C3%A4/load", reply({"model": model_json("org/a ?#ä")}))
        assert Api(daemon.url).act("org/a ?#ä", "load").name == "org/a ?#ä"


def test_a_daemon_may_stand_below_a_path() -> None:
    with stand_in() as daemon:
        daemon.say("GET /arena/admin/pool", reply(pool_json()))
        assert Api(f"{daemon.url}/arena").pool().version == "9.8.7"


def test_a_wrong_configuration_is_the_daemons_lines() -> None:
    with stand_in() as daemon:
        daemon.say("POST /admin/reload", error(400, "a.yaml: one\na.yaml: two"))
        with pytest.raises(ConfigError) as caught:
            Api(daemon.url).reload()
    assert caught.value.lines == ["a.yaml: one", "a.yaml: two"]


def test_events_need_a_stream() -> None:
    with stand_in() as daemon:
        daemon.say("GET /admin/events", reply({}))
        with pytest.raises(BadAnswer, match="does not answer with a stream"), Api(daemon.url).events():
            pass


@dataclass(frozen=True, slots=True)
class Inner:
    ratio: float


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    many: tuple[Inner, ...]
    number: int
    maybe: int | None


def test_json_becomes_dataclasses() -> None:
    value = json.loads('{"name": "a", "many": [{"ratio": 1, "new": {}}], "number": 2.0, "other": 1}')
    assert read(Outer, value) == Outer("a", (Inner(1.0),), 2, None)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"name": None}, "name"),
        ({"many": {}}, "many"),
        ({"many": [{"ratio": True}]}, r"many\.0\.ratio"),
        ({"many": [{"ratio": float("nan")}]}, r"many\.0\.ratio"),
        ({"number": "1"}, "number"),
        ({"maybe": "1"}, "maybe"),
    ],
)
def test_json_of_another_shape_is_named_by_its_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(WrongShape, match=f"`{place}`"):
        read(Outer, {"name": "a", "many": [], "number": 1, "maybe": None, **change})


@pytest.mark.parametrize("key", [k for k in Picture.__slots__ if isinstance(k, str)])
def test_a_picture_that_lacks_something_is_not_guessed(key: str) -> None:
    whole = pool_json()
    del whole[key]
    with pytest.raises(WrongShape, match=f"`{key}`"):
        read(Picture, whole)
