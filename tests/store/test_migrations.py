"""The schema's history leads to the schema, from everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from arena_server.store.engines import WRITES, make_engine, make_file
from arena_server.store.errors import StoreUnavailable
from arena_server.store.export import export_rows
from arena_server.store.migrate import MIGRATIONS, migrate, schema_version, upgrade, versions
from arena_server.store.schema import HEAD, VERSION_TABLE, metadata
from arena_server.store.store import Store
from arena_server.store.url import sqlite_file
from tests.store.conftest import Home
from tests.store.samples import NOON

SCRIPTS = ScriptDirectory.from_config(Config(attributes={}, config_args={"script_location": str(MIGRATIONS)}))
REVISIONS = [script.revision for script in SCRIPTS.walk_revisions()]


@pytest.fixture
def engine(home: Home) -> Iterator[sa.Engine]:
    """On an empty database."""
    if (path := sqlite_file(home.url)) is not None:
        make_file(path)
    engine = make_engine(home.url, 10)
    yield engine
    engine.dispose()


def differences(connection: sa.Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
    return list(compare_metadata(context, metadata))


def test_the_history_ends_at_the_head() -> None:
    assert SCRIPTS.get_heads() == [HEAD]


def test_an_empty_database_gets_the_tables_of_the_schema(engine: sa.Engine) -> None:
    migrate(engine)
    with engine.begin() as connection:
        assert differences(connection) == []
        assert schema_version(connection) == HEAD


def test_a_column_that_no_migration_makes_is_noticed(engine: sa.Engine) -> None:
    """That is, the test above can fail."""
    migrate(engine)
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        connection.exec_driver_sql("ALTER TABLE arena_answers DROP COLUMN reasoning")
        assert [change[0] for change in differences(connection)] == ["add_column"]


@pytest.mark.parametrize("revision", REVISIONS)
async def test_from_each_revision_with_what_is_in_it(engine: sa.Engine, home: Home, revision: str) -> None:
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        upgrade(connection, revision)
        assert schema_version(connection) == revision
        fill(connection)
    store = Store(home.url)
    await store.open()
    assert [tally.count for tally in await store.tallies()] == [await store.votes()] == [1]
    await store.close()
    assert len(list(export_rows(home.url))) == 1
    with engine.begin() as connection:
        assert differences(connection) == []


def fill(connection: sa.Connection) -> None:
    """A row in each table, whatever its columns are at this revision."""
    tables = sa.MetaData()
    tables.reflect(connection)
    for table in tables.sorted_tables:
        if table.name != VERSION_TABLE:
            connection.execute(table.insert().values({column.name: value(column) for column in table.columns}))


def value(column: sa.Column[Any]) -> Any:
    if isinstance(column.type, sa.JSON):
        return []
    some: dict[type, Any] = {
        datetime: NOON.replace(tzinfo=None),
        date: NOON.date(),
        str: "a",
        int: 1,
        float: 0.5,
        bool: True,
    }
    return some[column.type.python_type]


async def test_a_newer_database_is_refused_and_left_as_it_is(engine: sa.Engine, home: Home) -> None:
    migrate(engine)
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        connection.execute(versions.update().values(version_num="9999"))
    store = Store(home.url)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="has schema 9999, which a newer arena-server made"):
            await store.open()
    await store.close()
    with pytest.raises(StoreUnavailable, match="schema 9999"):
        next(export_rows(home.url))
    with engine.begin() as connection:
        assert schema_version(connection) == "9999"


async def test_an_empty_database_is_not_touched_by_an_export(engine: sa.Engine, home: Home) -> None:
    with pytest.raises(StoreUnavailable, match=r"The database .* has nothing of arena-server in it"):
        next(export_rows(home.url))
    with engine.begin() as connection:
        assert sa.inspect(connection).get_table_names() == []
