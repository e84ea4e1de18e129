"""SQLite's file: where it is made, what is never done to it, and how it is written."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from arena_server.store.engines import make_engine
from arena_server.store.errors import StoreUnavailable
from arena_server.store.records import Vote
from arena_server.store.schema import votes
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url, store_url
from tests.store.conftest import rows
from tests.store.samples import NOON, battle


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "state #1%20 ü" / "arena.sqlite"


# Ruff has asynchronous functions not touch files themselves.
def read(file: Path) -> bytes:
    return file.read_bytes()


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def files(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


async def opened(file: Path) -> Store:
    store = Store(sqlite_url(file))
    await store.open()
    return store


async def test_it_is_made_for_its_user_alone(file: Path) -> None:
    store = await opened(file)
    await store.vote(battle(), Vote.A, NOON)
    assert {f.name: f.stat().st_mode & 0o777 for f in file.parent.iterdir()}.items() >= {("arena.sqlite", 0o600)}
    assert all(f.stat().st_mode & 0o077 == 0 for f in (file.parent, *file.parent.iterdir()))
    await store.close()
    assert files(file.parent) == ["arena.sqlite"], "it can be copied as one file"


async def test_a_commit_is_on_the_disk(file: Path) -> None:
    await (await opened(file)).close()
    with make_engine(sqlite_url(file), 1).connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("journal_mode", "synchronous")
        }
        assert settings == {"journal_mode": "wal", "synchronous": 2}  # FULL
        with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"):
            connection.execute(votes.insert().values(battle_id="none", vote="a", at=NOON))
        connection.close()


async def test_what_is_no_database_is_left_as_it_is(file: Path) -> None:
    write(file, b"my diary, " * 1000)
    with pytest.raises(StoreUnavailable, match=r"not a database.*left as it is"):
        await opened(file)
    assert read(file) == b"my diary, " * 1000
    assert files(file.parent) == [file.name]


async def test_a_damaged_database_is_left_as_it_is(file: Path) -> None:
    store = await opened(file)
    await store.vote(battle(), Vote.A, NOON)
    await store.close()
    whole = read(file)
    damaged = whole[:4096] + b"\xff" * (len(whole) - 4096)
    write(file, damaged)
    with pytest.raises(StoreUnavailable, match=r"malformed.*Restore"):
        await (await opened(file)).votes()
    assert read(file) == damaged


async def test_a_file_that_is_deleted_is_not_begun_anew(file: Path) -> None:
    """It may be a disk that is not mounted now: votes in a new file would be lost when it is back."""
    store = await opened(file)
    await store.vote(battle(), Vote.A, NOON)
    for left in file.parent.iterdir():
        left.unlink()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="unable to open database file"):
            await store.vote(battle("b2"), Vote.A, NOON)
    assert files(file.parent) == []
    await store.close()


async def test_a_copy_that_is_put_in_its_place_is_used(file: Path) -> None:
    store = await opened(file)
    await store.vote(battle("b1"), Vote.A, NOON)
    await store.close()
    shutil.copy(file, file.with_name("copy"))
    store = await opened(file)
    await store.vote(battle("b2"), Vote.A, NOON)
    for left in file.parent.glob("arena.sqlite*"):
        left.unlink()
    file.with_name("copy").rename(file)
    await store.vote(battle("b3"), Vote.A, NOON)
    assert [row["battle_id"] for row in rows(sqlite_url(file), votes)] == ["b1", "b3"]
    await store.close()


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
async def test_a_new_file_that_another_writes_just_now_is_waited_for(file: Path, journal: str) -> None:
    """As when two daemons start. SQLite itself waits neither to change to a write-ahead log, nor if a reader turns
    writer and somebody else has written meanwhile: "database is locked", whatever the time limit."""
    write(file, b"")
    other = sqlite3.connect(file, isolation_level=None)
    other.execute(f"PRAGMA journal_mode = {journal}")
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE something (x)")
    opening = asyncio.ensure_future(opened(file))
    done, _ = await asyncio.wait([opening], timeout=0.5)
    assert not done
    other.execute("COMMIT")
    other.close()
    await (await opening).close()


async def test_one_that_stays_locked_is_unavailable(file: Path) -> None:
    await (await opened(file)).close()
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = Store(sqlite_url(file), timeout_s=0.2)
    with pytest.raises(StoreUnavailable, match=r"database is locked\. Another program"):
        await store.record(battle())
    assert await store.votes() == 0, "reading needs no lock"
    other.close()
    await store.record(battle())
    await store.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "no URL of SQLite"),
        ("sqlite:///", "has to name a file"),
        ("sqlite:///:memory:", "has to name a file"),
        ("sqlite:////x?mode=ro", "has to name a file, without settings"),
        ("mysql://me:secret@host/x", "no URL of SQLite or PostgreSQL"),
        ("postgresql+asyncpg://me:secret@host/x", "no URL of SQLite or PostgreSQL"),
        ("postgresql://me:secret@host:port/x", "no URL of SQLite or PostgreSQL"),
        ("nonsense:secret", "no URL of SQLite or PostgreSQL"),
        (
            "postgres://me:secret@127.0.0.1:1/x",
            r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x.*See that the server runs",
        ),
    ],
)
async def test_a_url_that_cannot_be_used_says_why_and_no_password(url: str, said: str) -> None:
    store = Store(url)
    with pytest.raises(StoreUnavailable, match=said) as refused:
        await store.open()
    assert "secret" not in refused.value.message
    await store.close()


async def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    store = Store("postgresql://host/x")
    with pytest.raises(StoreUnavailable, match=r"pip install 'arena-server\[postgres\]'"):
        await store.open()
    await store.close()


def test_the_default_is_a_file_in_the_state_directory(tmp_path: Path) -> None:
    assert store_url(None, tmp_path) == f"sqlite:///{tmp_path}/arena.sqlite"
    assert store_url("postgresql://host/x", tmp_path) == "postgresql://host/x"


def test_the_daemon_imports_no_sqlalchemy_to_have_a_store() -> None:
    """Half a second, and the daemon has to be up in one."""
    program = "import sys; from arena_server.store.store import Store; Store(''); print('sqlalchemy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


def test_a_database_that_is_up_to_date_needs_no_alembic(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from arena_server.store.store import Store\n"
        f"asyncio.run(Store({sqlite_url(tmp_path / 'a.sqlite')!r}).open()); print('alembic' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    assert [subprocess.check_output(command, text=True) for _ in range(2)] == ["True\n", "False\n"]
