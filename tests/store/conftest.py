"""The two databases that the store's contract holds for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from arena_server.store.database import Database
from arena_server.store.engines import WRITES, make_engine
from arena_server.store.schema import battles
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from tests.support.postgres import PostgresServer, postgres_server


@dataclass(frozen=True)
class Home:
    """An empty database's URL, and a way to have the database vanish for a while."""

    url: str
    take_away: Callable[[], None]
    bring_back: Callable[[], None]


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    if request.param == "sqlite":
        folder = SqliteFolder(tmp_path / "state", tmp_path / "elsewhere")
        return Home(sqlite_url(folder.place / "arena.sqlite"), folder.take_away, folder.bring_back)
    postgres: PostgresServer = request.getfixturevalue("server")
    return Home(postgres.new_database(), postgres.stop, postgres.start)


@dataclass(frozen=True)
class SqliteFolder:
    """The database's folder, which can have a file in its place."""

    place: Path
    elsewhere: Path

    def take_away(self) -> None:
        if self.place.exists():
            self.place.rename(self.elsewhere)
        self.place.touch()

    def bring_back(self) -> None:
        self.place.unlink()
        if self.elsewhere.exists():
            self.elsewhere.rename(self.place)


@pytest.fixture
async def store(home: Home) -> AsyncIterator[Store]:
    opened = Store(home.url)
    await opened.open()
    yield opened
    await opened.close()


def rows(url: str, table: sa.Table) -> list[dict[str, Any]]:
    """All of a table, in the order of its key, through a connection that is not the store's."""
    database = Database(url, 10, reader=True)
    with database.transaction(write=False) as connection:
        found = connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings()
        result = [dict(row) for row in found]
    database.close()
    return result


@contextlib.contextmanager
def locked_by_another(url: str) -> Iterator[None]:
    """Another program keeps the battles that are stored locked (SQLite: everything)."""
    engine = make_engine(url, 30)
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        connection.execute(battles.update().values(paced=True))
        yield
    engine.dispose()
