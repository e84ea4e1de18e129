"""The processes of one engine: a process group, read from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

# Removes the shared memory that its process left behind, and ends by itself when that process is gone
# (multiprocessing.resource_tracker). Killed with the others, /dev/shm would fill up, load by load.
_TRACKER = b"multiprocessing.resource_tracker"


@dataclass(frozen=True, slots=True)
class Member:
    """A living process of a group: pid and the title it shows in `ps` (15 bytes at most)."""

    pid: int
    title: str


def members(pgid: int) -> list[Member]:
    """The living processes of the group, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # "pid (title) state ppid pgrp ...": the title may hold blanks and brackets (proc(5))
            head, _, tail = (entry / "stat").read_text().rpartition(")")
            state, _, group = tail.split()[:3]
            if int(group) == pgid and state not in "ZX":
                found.append(Member(int(entry.name), head.partition("(")[2]))
    return found


def kill(pgid: int) -> None:
    """SIGKILL to every process of the group but the resource trackers, which end by themselves."""
    for member in members(pgid):
        with contextlib.suppress(OSError):
            if _TRACKER not in Path(f"/proc/{member.pid}/cmdline").read_bytes():
                os.kill(member.pid, signal.SIGKILL)
