"""What the daemon has measured, for whoever only wants to read it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from arena_server.measurements import MeasurementStore

MEASUREMENTS = "measurements.sqlite"


def open_measurements(state_dir: Path) -> tuple[MeasurementStore, str | None]:
    """A private copy of what the daemon measured, and why there is none although there is a file.

    A copy, so that nothing is changed: the daemon may be running, and the file be another user's.
    """
    file = state_dir / MEASUREMENTS
    memory = sqlite3.connect(":memory:")
    try:
        if file.exists():
            # Where nobody has it open there is no -wal file, and none must be made: it would belong to root, say, and
            # shut the daemon out.
            how = "mode=ro" if file.with_name(f"{MEASUREMENTS}-wal").exists() else "immutable=1"
            with closing(sqlite3.connect(f"{file.as_uri()}?{how}", uri=True)) as on_disk:
                on_disk.backup(memory)
            memory.execute("SELECT key, numbers, used_at FROM measured LIMIT 1").fetchone()
            return MeasurementStore(memory), None
    except (OSError, sqlite3.Error) as e:
        memory.close()
        return MeasurementStore(None), f"{file}: what was measured cannot be read: {e}"
    memory.close()
    return MeasurementStore(None), None
