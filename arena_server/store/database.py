"""The database: transactions on it, and its troubles in words that help."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import MappingProxyType

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from arena_server.store.engines import WRITES, make_engine, make_file
from arena_server.store.errors import StoreUnavailable
from arena_server.store.migrate import migrate, schema_version
from arena_server.store.schema import HEAD
from arena_server.store.url import sqlite_file

# What to do, by what the databases and the system say.
ADVICE = MappingProxyType(
    {
        "unable to open database file": "See that it is there, and that the daemon's user may write it and its folder.",
        "readonly": "See that the daemon's user may write to the file and its folder.",
        "Permission denied": "See that the daemon's user may write there.",
        "database is locked": "Another program keeps it locked; end that one, or try again.",
        "disk is full": "Make room on the disk.",
        "No space left": "Make room on the disk.",
        "not a database": "Move the file away, or give another one; it is left as it is.",
        "malformed": "Restore the file from a copy, or move it away; it is left as it is.",
        "statement timeout": "The database is slow, or another program keeps what is needed locked; try again.",
        "password": "See that user and password in `arena.database` are right.",
        "does not exist": "See that database and user of `arena.database` exist.",
        "permission denied": "Grant the user of `arena.database` the right to create and write tables.",
        "connection": "See that the server runs and `arena.database` is right; calls succeed again when it is back.",
    }
)


class Database:
    """One database, made and migrated when it is first used. For one thread at a time.

    A `reader` makes and migrates nothing.
    """

    def __init__(self, url: str, timeout_s: float, *, reader: bool = False) -> None:
        """`url` is SQLAlchemy's; no statement waits for longer than `timeout_s`."""
        self._url = url
        self._timeout_s = timeout_s
        self._reader = reader
        self._engine: Engine | None = None
        self._checked = False  # the schema, since the last trouble
        self._seen = reader  # it was there once, so it is not made anew

    @contextlib.contextmanager
    def transaction(self, *, write: bool) -> Iterator[Connection]:
        """A transaction: committed at the end, rolled back if the block raises. Raises StoreUnavailable."""
        with self._in_words():
            engine = self._ready()
            with engine.connect().execution_options(**{WRITES: write}) as connection, connection.begin():
                yield connection

    def open(self) -> None:
        """Make it if need be, and bring its schema up to date. Raises StoreUnavailable."""
        with self._in_words():
            self._ready()

    def close(self) -> None:
        """End the connections; another use makes new ones."""
        engine, self._engine, self._checked = self._engine, None, False
        if engine is not None:
            engine.dispose()

    def _ready(self) -> Engine:
        if self._engine is None:
            self._engine = make_engine(self._url, self._timeout_s)
        if not self._checked:
            if self._reader:
                self._check_schema(self._engine)
            else:
                if not self._seen and (path := sqlite_file(self._url)) is not None:
                    make_file(path)
                migrate(self._engine)
            self._checked = self._seen = True
        return self._engine

    def _check_schema(self, engine: Engine) -> None:
        with engine.begin() as connection:
            version = schema_version(connection)
        if version != HEAD:
            have = "nothing of arena-server in it" if version is None else f"schema {version}, and not {HEAD}"
            raise StoreUnavailable(f"The database {self._shown()} has {have}. Start this version's daemon on it once.")

    def _shown(self) -> str:
        """Which database it is, without a password."""
        if (path := sqlite_file(self._url)) is not None:
            return str(path)
        return "of `arena.database`" if self._engine is None else self._engine.url.render_as_string()

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable:
            raise
        except (SQLAlchemyError, OSError, ModuleNotFoundError, OverflowError) as e:
            # It may come back as another one: an older copy, or empty.
            self._checked = False
            raise StoreUnavailable(f"The database {self._shown()} cannot be used: {_reason(e)}") from e


def _reason(error: Exception) -> str:
    """What the driver says, in one line, and what to do. PostgreSQL's further lines may quote what was to be stored."""
    if isinstance(error, ModuleNotFoundError):
        return "PostgreSQL's driver is not installed. Install it: pip install 'arena-server[postgres]'."
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    return next((f"{said}. {advice}" for words, advice in ADVICE.items() if words in said), said)
