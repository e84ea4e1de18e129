"""Brings a database's tables to the form that this version uses."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, func, inspect, select, text

from arena_server.store.engines import WRITES
from arena_server.store.errors import StoreUnavailable
from arena_server.store.schema import HEAD, VERSION_TABLE

MIGRATIONS = Path(__file__).parent / "migrations"
# Any number, as long as it is always the same: who holds PostgreSQL's lock of that number may change the tables.
POSTGRES_LOCK = 0x6172656E61
# Alembic keeps the migration under way in its own modules: two at once, of two databases, would get into each other.
ALEMBIC = threading.Lock()

versions = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32)))


def schema_version(connection: Connection) -> str | None:
    """The database's revision; None if it has none of our tables."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(select(versions.c.version_num)).scalar_one_or_none()


def migrate(engine: Engine) -> None:
    """Bring the tables to `HEAD`, in one transaction; a database that is there already is only asked.

    Others may do the same at the same time: one of them does it. Raises StoreUnavailable if the database is newer.
    """
    with engine.begin() as connection:
        if schema_version(connection) == HEAD:
            return
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        _lock_schema(connection)
        upgrade(connection, HEAD)


def _lock_schema(connection: Connection) -> None:
    """Keep others from changing the tables until the transaction's end. With SQLite, it holds the only lock already."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(POSTGRES_LOCK)))
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # large tables may take their time


def upgrade(connection: Connection, revision: str) -> None:
    """Bring the tables up to `revision`. Raises StoreUnavailable if what they are at is not known here."""
    # Here, since it takes 0.2 s to import and is hardly ever needed.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    # It would tell of every step under its own name, at a level that the daemon's log shows.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if (version := schema_version(connection)) is not None and version not in known:
        raise StoreUnavailable(
            f"The database has schema {version}, which a newer arena-server made; this one knows up to {HEAD}. "
            "Start that version again, or give this one another database (`arena.database`)."
        )
    with ALEMBIC:
        command.upgrade(config, revision)
