"""Where the store is, as a URL in SQLAlchemy's form. Without SQLAlchemy: it takes half a second to import."""

from __future__ import annotations

from pathlib import Path

FILE_NAME = "arena.sqlite"
SQLITE = "sqlite:///"
POSTGRESQL = "postgresql+psycopg:"


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite database in the file at `path`."""
    return f"{SQLITE}{path.absolute()}"


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite URL; None if it is none. As it is written: versions of SQLAlchemy differ in decoding it."""
    return Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None


def store_url(database: str | None, state_dir: Path) -> str:
    """The URL that the configuration means: its `database`, or a file in `state_dir` where there is none."""
    return database or sqlite_url(state_dir / FILE_NAME)


def postgres_url(url: str) -> str | None:
    """A PostgreSQL URL with the driver that is used here, psycopg; None if it is none."""
    scheme, _, rest = url.partition(":")
    return POSTGRESQL + rest if f"{scheme}:" in ("postgres:", "postgresql:", POSTGRESQL) else None
