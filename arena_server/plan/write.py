"""Puts a changed configuration in the place of the old one: checked, shown as a diff, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path

from arena_server.config import parse_config
from arena_server.config_types import Origin
from arena_server.plan.errors import PlanError
from arena_server.vllm_arguments import known_arguments


def diff(file: Path, before: str, after: str) -> list[str]:
    """The lines of a unified diff, without their ends."""
    lines = unified_diff(before.splitlines(), after.splitlines(), str(file), f"{file} (new)", n=1, lineterm="")
    return list(lines)


def replace_config(file: Path, before: str, after: str) -> str | None:
    """Write `after`, if the file still says `before`.

    Its mode, owner and group stay; who reads it meanwhile sees the one or the other. Returns a sentence if the group
    has become another, as not everybody may give files to it. Raises ConfigError if `after` would not be a
    configuration, and PlanError if it cannot be written.
    """
    parse_config(after.encode(), Origin(file, known_arguments()))
    place = Path(os.path.realpath(file))  # a link stays a link
    try:
        with _draft(place, after.encode()) as (draft, note):
            if place.read_bytes() != before.encode():
                raise PlanError(f"{file}: was changed meanwhile; nothing was written (run it again)")
            os.replace(draft, place)
            return note
    except OSError as e:
        raise PlanError(f"{file}: cannot be written: {e.strerror} (nothing was changed)") from None


@contextlib.contextmanager
def _draft(place: Path, contents: bytes) -> Iterator[tuple[Path, str | None]]:
    """A file with that in it beside `place`, with its mode, owner and group; gone at the end."""
    status = place.stat()
    handle, name = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            note = _give(handle, status, place)
            os.fchmod(handle, status.st_mode & 0o7777)
            file.write(contents)
            file.flush()
            os.fsync(handle)  # or a power cut could leave an empty file under the old one's name
        yield Path(name), note
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _give(handle: int, wanted: os.stat_result, file: Path) -> str | None:
    """Give a draft the owner and group of `file`; a sentence if only the group is another. Raises PlanError."""
    with contextlib.suppress(PermissionError):
        os.fchown(handle, wanted.st_uid, -1)
    with contextlib.suppress(PermissionError):
        os.fchown(handle, -1, wanted.st_gid)
    status = os.fstat(handle)
    if status.st_uid != wanted.st_uid:
        raise PlanError(
            f"{file}: belongs to user {wanted.st_uid}, which only root can leave so (nothing was changed; run it as "
            "that user, or on a copy of your own)"
        )
    if status.st_gid != wanted.st_gid:
        return f"its group is now {status.st_gid} (was {wanted.st_gid}, and only its members and root may keep it so)"
    return None
