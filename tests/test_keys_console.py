"""The key that the operator's commands show: all of them, from the environment or a file, and what a refusal tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from arena_server.cli import main
from arena_server.console.api import Api, Refused
from arena_server.console.key import ApiKey
from tests.test_console_daemon import StandIn, console, error, model_json, reply, stand_in

KEY = "sk-arena-one"
COMMANDS = [
    ("status",),
    ("status", "--json"),
    ("load", "--no-wait", "a"),
    ("pin", "a"),
    ("reload",),
    ("events",),
    ("chat", "-m", "a", "hello"),
    ("compare", "-m", "a", "-m", "b", "hello"),
    ("compare", "-m", "a", "-m", "b", "--json", "hello"),
    ("leaderboard",),
    ("leaderboard", "--json"),
    ("models", "list"),
    ("usage",),
    ("keys", "list"),
    ("keys", "create", "app"),
    ("keys", "revoke", "app"),
    ("keys", "rotate", "app"),
]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.delenv("ARENA_API_KEY", raising=False)
    monkeypatch.delenv("ARENA_URL", raising=False)
    with stand_in(model_json("a")) as running:
        yield running


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_shows_the_key(
    daemon: StandIn, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    main([*command, "--url", daemon.url])
    assert set(daemon.shown) == {None}
    daemon.shown.clear()
    monkeypatch.setenv("ARENA_API_KEY", f" {KEY}\n")
    main([*command, "--url", daemon.url])
    assert set(daemon.shown) == {f"Bearer {KEY}"}
    daemon.shown.clear()
    file = tmp_path / "key"
    file.write_text("sk-arena-of-the-file\n")
    main([*command, "--url", daemon.url, "--key-file", str(file)])
    assert set(daemon.shown) == {"Bearer sk-arena-of-the-file"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"", "there is no key in it"),
        (b"sk-arena-one\nsk-arena-two\n", "that is no key"),
        (b"sk arena", "that is no key"),
        ("schlüssel".encode(), "that is no key"),
        (b"a" * 5000, "that is no key"),
    ],
)
def test_a_file_without_a_key_is_told_and_nothing_is_asked(
    daemon: StandIn, content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    assert main(["status", "--url", daemon.url, "--key-file", str(file)]) == 2
    told = capsys.readouterr().err
    assert str(file) in told
    assert said in told
    assert not content or content.decode().strip() not in told
    assert daemon.asked == []


def test_a_key_is_never_on_the_command_line_and_never_printed(daemon: StandIn) -> None:
    for command in (("status", "--help"), ("keys", "create", "--help")):
        assert "--api-key" not in console(*command).stdout
    assert KEY not in repr(ApiKey(KEY, "$ARENA_API_KEY"))
    daemon.say("GET /admin/pool", error(401, "No such API key.", "invalid_api_key"))
    done = console("status", "--url", daemon.url, env={"ARENA_API_KEY": KEY})
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("status", "key", "advice"),
    [
        (401, None, "Put your key into ARENA_API_KEY, or into a file: --key-file FILE."),
        (401, KEY, "The key came from $ARENA_API_KEY."),
        (403, KEY, "The key came from $ARENA_API_KEY."),
        (403, None, None),
        (409, KEY, None),
    ],
)
def test_a_refusal_says_what_to_do_about_the_key(
    daemon: StandIn, status: int, key: str | None, advice: str | None
) -> None:
    daemon.say("GET /admin/pool", error(status, "The daemon's words.", "code"))
    api = Api(daemon.url, key=None if key is None else ApiKey(key, "$ARENA_API_KEY"))
    with pytest.raises(Refused) as caught:
        api.pool()
    assert caught.value.message.splitlines() == ["The daemon's words.", *([advice] if advice else [])]


def test_a_stream_is_refused_in_the_same_words(daemon: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.say("GET /admin/events", error(401, "You need an API key.", "invalid_api_key"))
    assert main(["events", "--url", daemon.url]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "arena-server: You need an API key.",
        "arena-server: Put your key into ARENA_API_KEY, or into a file: --key-file FILE.",
    ]


def test_what_answers_like_another_version_is_told(daemon: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.say("GET /admin/keys", reply({"keys": [{"id": 1}]}))
    assert main(["keys", "list", "--url", daemon.url]) == 1
    assert "another version of arena-server?" in capsys.readouterr().err
