"""SQLAlchemy's engines for the two databases: durable, with bounded waits, and never on a file that is not there."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from arena_server.store.errors import StoreUnavailable
from arena_server.store.url import postgres_url, sqlite_file

EXAMPLES = "Give sqlite:////a/file or postgresql://user@host/name, or nothing (a file in `state_dir`)."
# A connection's option: its transactions write. SQLite then has to take its lock at their beginning: a transaction that
# has begun as a reader fails at once, whatever its time limit, if somebody else has written meanwhile.
WRITES = "arena_writes"


def make_engine(url: str, timeout_s: float) -> Engine:
    """The engine for `url`; connects to nothing yet. No statement waits for longer than `timeout_s`.

    Raises StoreUnavailable for a URL that is no good, and ModuleNotFoundError where PostgreSQL's driver is missing.
    """
    if (path := sqlite_file(url)) is not None:
        if str(path) in (".", ":memory:") or "?" in str(path):
            raise StoreUnavailable(f"`arena.database` has to name a file, without settings after a `?`. {EXAMPLES}")
        return _sqlite(path.absolute(), timeout_s)
    if (postgres := postgres_url(url)) is not None:
        with contextlib.suppress(ArgumentError, ValueError):  # whose words may quote a password
            return _postgres(make_url(postgres), timeout_s)
    raise StoreUnavailable(f"`arena.database` is no URL of SQLite or PostgreSQL. {EXAMPLES}")


def make_file(path: Path) -> None:
    """An empty SQLite database at `path`, for its user alone, if there is none. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Only if it is new: closing another descriptor of an open database gives up SQLite's locks (POSIX, fcntl(2)).
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def data_version(connection: Connection) -> tuple[int, int] | None:
    """Equal on one and the same DBAPI connection as long as nobody has changed the database. None: not to be had there.

    To be asked first in a transaction, which then sees just what this is the version of.
    """
    if connection.dialect.name != "sqlite":
        return None
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    # The first tells of others' commits, the second of what this connection has changed itself.
    return connection.exec_driver_sql("PRAGMA data_version").scalar_one(), driver.total_changes


def _sqlite(path: Path, timeout_s: float) -> Engine:
    def connect() -> sqlite3.Connection:
        # Not made anew if it has gone: votes would go into an empty file, and be gone with it when the old one is back.
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw",
            uri=True,
            timeout=timeout_s,
            isolation_level=None,  # Python begins no transactions of its own; `begin` below does
            check_same_thread=False,  # the pool's last connection may be closed by any thread
        )
        try:
            _write_ahead(connection, time.monotonic() + timeout_s)
            # A vote is acknowledged after its commit, and that has to be on the disk then.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, hide_parameters=True)

    def remember_file(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["file"] = _identity(path)

    def same_file(_connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        # A file that was moved or deleted can still be written to, and nobody would find those votes.
        if entry.info["file"] != _identity(path):
            raise DisconnectionError(f"{path} is another file now")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITES) else "BEGIN")

    event.listen(engine, "connect", remember_file)
    event.listen(engine, "checkout", same_file)
    event.listen(engine, "begin", begin)
    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _write_ahead(connection: sqlite3.Connection, deadline: float) -> None:
    """Have readers and the writer not wait for each other. `deadline` is one of `time.monotonic()`.

    SQLite waits for nobody's lock here: of two that begin with a new file, one is told that it is locked.
    """
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as e:
            if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return  # or it stays as it is: not every file system can do it


def _postgres(url: URL, timeout_s: float) -> Engine:
    limits = {
        "connect_timeout": math.ceil(timeout_s),
        "tcp_user_timeout": math.ceil(timeout_s * 1000),  # ms; else a host that has vanished is waited for for hours
        "keepalives_idle": math.ceil(timeout_s),  # likewise, where all that was sent had arrived
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "prepare_threshold": None,  # a connection pooler in between may not know the statements prepared before
        "application_name": "arena-server",
    }
    chosen = {name: value for name, value in limits.items() if name not in url.query}
    engine = create_engine(url, connect_args=chosen, pool_pre_ping=True, hide_parameters=True)

    def begin(connection: Connection) -> None:
        # For this transaction alone: behind a connection pooler the next one may be another program's.
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {math.ceil(timeout_s * 1000)}")

    event.listen(engine, "begin", begin)
    return engine
