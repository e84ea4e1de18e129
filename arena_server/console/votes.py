"""`arena-server votes export`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from arena_server.errors import ArenaError


class ExportFailed(ArenaError):
    """The votes cannot be written where they should go."""


def export(url: str, output: Path | None) -> int:
    """Write the votes of the database at `url` to the file `output`, or to standard output. Returns the exit status.

    The file appears, or is replaced, once it is complete. Raises ExportFailed and StoreUnavailable.
    """
    # Here, since it imports SQLAlchemy, which no other command needs.
    from arena_server.store.export import export_votes

    if output is None:
        export_votes(url, sys.stdout)
        return 0
    part = output.with_name(f"{output.name}.part-{os.getpid()}")
    try:
        try:
            with part.open("w", encoding="ascii") as out:
                count = export_votes(url, out)
            part.replace(output)
        finally:
            part.unlink(missing_ok=True)
    except OSError as e:
        raise ExportFailed(f"{output}: {e.strerror}") from e
    print(f"{output}: {count} {'vote' if count == 1 else 'votes'}", file=sys.stderr)
    return 0
