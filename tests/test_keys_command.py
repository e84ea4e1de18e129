"""`arena-server keys`: before a daemon, and on the database itself."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection

from arena_server.access.key_card import ACTIVE, EXPIRED, REVOKED, KeyCard, KeyLimits
from arena_server.cli import main
from arena_server.console.keys import NoSuchKey, found_key, table
from arena_server.store.registry import put as keep
from arena_server.store.registry_record import AliasRecord, ModelRecord
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from tests.support.daemon_app import MODELS, FakeDaemon, running_daemon
from tests.support.gate import LIMIT_S
from tests.test_console_daemon import console
from tests.test_keys_admin import lets_in

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration; its database is not there yet."""
    monkeypatch.delenv("ARENA_API_KEY", raising=False)
    state = tmp_path / "state"
    state.mkdir()
    settings = {"models": MODELS, "state_dir": str(state), "arena": {"database": sqlite_url(state / "arena.sqlite")}}
    path = tmp_path / "arena.yaml"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture
async def daemon(file: Path) -> AsyncIterator[FakeDaemon]:
    """Of that configuration."""
    async with running_daemon(file=file) as running:
        yield running


def run(capsys: Captured, *arguments: str | Path, status: int = 0) -> tuple[str, str]:
    """A command's standard output and error."""
    assert main([str(a) for a in arguments]) == status
    done = capsys.readouterr()
    return done.out, done.err


async def ask(daemon: FakeDaemon, capsys: Captured, *arguments: str, status: int = 0) -> tuple[str, str]:
    """The same, while the daemon of the test's own loop answers."""
    return await asyncio.to_thread(run, capsys, *arguments, "--url", daemon.url, status=status)


async def test_from_the_first_key_to_its_end(
    daemon: FakeDaemon, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no keys" in (await ask(daemon, capsys, "keys", "list"))[0]
    _, said = await ask(daemon, capsys, "keys", "create", "me", status=1)
    assert "scope `admin`" in said
    out, said = await ask(daemon, capsys, "keys", "create", "me", "--scope", "admin")
    key = out.removesuffix("\n")  # as the shell's $( ) has it
    assert key.startswith("sk-arena-")
    assert key.split() == [key]
    assert key not in said
    assert "first one" in said
    assert "export ARENA_API_KEY=" in said
    _, said = await ask(daemon, capsys, "keys", "list", status=1)
    assert "--key-file" in said
    monkeypatch.setenv("ARENA_API_KEY", key)
    out, said = await ask(
        daemon, capsys, "keys", "create", "app", "--scope", "arena", "--scope", "inference", "-m", "alpha", "-m", "nil",
        "--expires", "2999-01-31", "--requests-per-minute", "60", "--tokens-per-day", "100000",
    )  # fmt: skip
    app = out.strip()
    assert "No model is called `nil` now" in said
    assert "first one" not in said
    assert await lets_in(daemon, app) == 200
    listed, _ = await ask(daemon, capsys, "keys", "list")
    assert app not in listed
    row = next(line for line in listed.splitlines() if " app " in line)
    assert "arena,inference  alpha,nil  60 requests/min, 100,000 tokens/day  2999-02-01 00:00" in row
    new, said = await ask(daemon, capsys, "keys", "rotate", "app", "--grace", "0")
    assert "is good no more" in said
    assert [await lets_in(daemon, text) for text in (app, new.strip())] == [401, 200]
    await ask(daemon, capsys, "keys", "revoke", "app")
    assert await lets_in(daemon, new.strip()) == 401
    out, _ = await ask(daemon, capsys, "keys", "revoke", "app")
    assert "already" in out
    _, said = await ask(daemon, capsys, "keys", "revoke", "me", status=1)
    assert "--config FILE" in said


async def test_a_daemon_notices_what_is_done_to_its_database(daemon: FakeDaemon, file: Path, capsys: Captured) -> None:
    assert await lets_in(daemon, None) == 200
    out, _ = await asyncio.to_thread(run, capsys, "keys", "create", "me", "--scope", "admin", "--config", file)
    await becomes(401, lambda: lets_in(daemon, None))
    assert await lets_in(daemon, out.strip(), "/admin/keys") == 200
    await asyncio.to_thread(run, capsys, "keys", "revoke", "me", "--config", file)
    await becomes(401, lambda: lets_in(daemon, out.strip()))
    assert await lets_in(daemon, None) == 401  # the end of the last key opens nothing


async def becomes(status: int, look: Callable[[], Awaitable[int]]) -> None:
    """Wait until the daemon answers so: it looks at its database every now and then."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            if await look() == status:
                return
            await asyncio.sleep(0.05)


def test_the_last_administrator_may_go_on_the_host_itself(file: Path, capsys: Captured) -> None:
    run(capsys, "keys", "create", "me", "--scope", "admin", "--config", file)
    run(capsys, "keys", "revoke", "me", "--config", file)
    _, said = run(capsys, "keys", "create", "app", "--config", file, status=1)
    assert "No key with the scope `admin` is in force" in said
    run(capsys, "keys", "create", "app", "--force", "--config", file)
    out, _ = run(capsys, "keys", "list", "--json", "--config", file)
    assert [(k["name"], k["state"]) for k in json.loads(out)["keys"]] == [("me", "revoked"), ("app", "active")]


def test_keys_of_one_name_are_told_apart_by_their_ids(file: Path, capsys: Captured) -> None:
    for _ in range(2):
        run(capsys, "keys", "create", "app", "--scope", "admin", "--config", file)
    _, said = run(capsys, "keys", "revoke", "app", "--config", file, status=1)
    out, _ = run(capsys, "keys", "list", "--json", "--config", file)
    ids = [key["id"] for key in json.loads(out)["keys"]]
    assert len(ids) == 2
    assert all(key_id in said for key_id in ids)
    run(capsys, "keys", "revoke", ids[0], "--config", file)
    out, _ = run(capsys, "keys", "rotate", "app", "--json", "--config", file)  # now it is plain which is meant
    rotated = json.loads(out)
    assert rotated["id"] == ids[1]
    assert rotated["key"].startswith("sk-arena-")


def test_what_is_asked_for_is_checked_as_the_daemon_does(file: Path, capsys: Captured) -> None:
    _, said = run(capsys, "keys", "create", "a\nb", "--scope", "admin", "--config", file, status=1)
    assert "`name`: must be printable" in said
    out, _ = run(capsys, "keys", "list", "--config", file)
    assert "no keys" in out


def test_models_that_were_added_at_run_time_are_known(file: Path, capsys: Captured) -> None:
    async def add() -> None:
        store = Store(sqlite_url(file.parent / "state" / "arena.sqlite"))
        now = datetime.now(UTC)
        model = ModelRecord("added", {"model": "org/added", "aliases": ["more"]}, False, now, now)

        def put(connection: Connection) -> None:
            keep(connection, "models", "added", model)
            keep(connection, "aliases", "mixed", AliasRecord("mixed", {"added": 1.0}, now))

        await store.transact(put, write=True)
        await store.close()

    asyncio.run(add())
    named = [option for name in ("alpha", "gpt-4o", "added", "more", "mixed", "nil") for option in ("-m", name)]
    _, said = run(capsys, "keys", "create", "me", "--scope", "admin", *named, "--config", file)
    assert [line for line in said.splitlines() if "No model is called" in line] == [
        "No model is called `nil` now: the key may use it once there is one."
    ]


def test_nothing_is_made_by_looking(file: Path, capsys: Captured) -> None:
    run(capsys, "keys", "list", "--config", file)
    run(capsys, "keys", "revoke", "nobody", "--config", file, status=1)
    assert list((file.parent / "state").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files that the daemon's user could not write")
def test_a_database_that_root_makes_is_its_folder_s_owner_s(file: Path, capsys: Captured) -> None:
    state = file.parent / "state"
    os.chown(state, 65534, 65534)
    run(capsys, "keys", "create", "me", "--scope", "admin", "--config", file)
    assert {p.name: p.stat().st_uid for p in state.iterdir()}.items() >= {("arena.sqlite", 65534)}
    assert {p.stat().st_uid for p in state.iterdir()} == {65534}


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "a", "--scope", "root"),
        ("create", "a", "--expires", "yesterday"),
        ("create", "a", "--expires", "2020-01-01"),
        ("create", "a", "--tokens-per-minute", "0"),
        ("create", "a", "--concurrent-requests", "many"),
        ("rotate", "a", "--grace", "long"),
        ("revoke",),
    ],
)
def test_a_wrong_command_line(arguments: tuple[str, ...], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keys", *arguments])
    assert ended.value.code == 2
    assert arguments[-1] in capsys.readouterr().err or arguments == ("revoke",)


def card(key_id: str, name: str, state: str = ACTIVE, limits: KeyLimits | None = None) -> KeyCard:
    return KeyCard(
        id=key_id,
        name=name,
        source="store",
        state=state,
        scopes=("inference",),
        models=None,
        limits=limits,
        created_at="2026-11-21T12:00:00+00:00",
        expires_at=None,
        revoked_at=None,
        previous_until=None,
    )


def test_a_key_is_found_by_its_id_before_any_name() -> None:
    cards = [
        card("1", "2"),
        card("2", "app", REVOKED),
        card("3", "app"),
        card("4", "app", EXPIRED),
        card("5", "old", REVOKED),
    ]
    assert [found_key(cards, text).id for text in ("1", "2", "app", "old")] == ["1", "2", "3", "5"]
    with pytest.raises(NoSuchKey, match="did you mean `app`"):
        found_key(cards, "ap")
    with pytest.raises(NoSuchKey, match=r"keys list"):
        found_key([], "app")


def test_the_table_is_aligned_and_clean() -> None:
    first = card("1", "a\x1b[31m漢字", limits=KeyLimits(concurrent_requests=4))
    lines = table([card("2", "old", REVOKED), first, card("3", "no limit", limits=KeyLimits())])
    assert "\x1b" not in "".join(lines)
    assert [line.split()[0] for line in lines] == ["ID", "1", "3", "2"]
    assert "4 at once" in lines[1]
    assert "none" in lines[2]


def test_a_shell_gets_the_key_alone(file: Path) -> None:
    done = console("keys", "create", "me", "--scope", "admin", "--config", file)
    assert done.returncode == 0
    assert len(done.stdout.split()) == 1
    assert done.stdout.startswith("sk-arena-")
