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
    """A living process of a group: its pid, and the beginning of the command line that `ps` shows."""

    pid: int
    title: str


def members(pgid: int) -> list[Member]:
    """The living processes of the group, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # "pid (name) state ppid pgrp ...": the name may hold blanks and brackets (proc(5))
            state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(group) == pgid and state not in "ZX":
                title = (entry / "cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace")
                found.append(Member(int(entry.name), title))
    return found


def kill(pgid: int) -> None:
    """SIGKILL to every process of the group but the resource trackers, which end by themselves."""
    for member in members(pgid):
        with contextlib.suppress(OSError):
            if _TRACKER not in Path(f"/proc/{member.pid}/cmdline").read_bytes():
                os.kill(member.pid, signal.SIGKILL)
