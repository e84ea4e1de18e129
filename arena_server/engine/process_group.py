"""The processes of one engine: a process group, read from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil

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


def moved_bytes(pgid: int) -> dict[int, int]:
    """What each living process of the group has read and written so far, in bytes, by pid.

    Counted are the bytes of its calls, and those that went to and came from disks: what it reads through a mapping,
    as weights are read, shows in the latter alone.
    """
    moved = {}
    for member in members(pgid):
        with contextlib.suppress(psutil.Error, OSError):
            io = psutil.Process(member.pid).io_counters()
            moved[member.pid] = io.read_chars + io.write_chars + io.read_bytes + io.write_bytes
    return moved


def kill(pgid: int) -> None:
    """SIGKILL to every process of the group but the resource trackers, which end by themselves."""
    for member in members(pgid):
        with contextlib.suppress(OSError):
            if _TRACKER not in Path(f"/proc/{member.pid}/cmdline").read_bytes():
                os.kill(member.pid, signal.SIGKILL)
