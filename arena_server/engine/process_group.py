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


# Of /proc/PID/io (proc(5)): the bytes of its calls, and those that went to and came from disks.
_MOVED = frozenset({"rchar", "wchar", "read_bytes", "write_bytes"})


@dataclass(frozen=True, slots=True)
class Member:
    """A living process of a group."""

    pid: int

    @property
    def title(self) -> str:
        """The beginning of the command line that `ps` shows; empty for one that has ended.

        Read only where it is wanted: that can wait for the process itself, while it maps its weights.
        """
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace")
        return ""


def members(pgid: int) -> list[Member]:
    """The living processes of the group, zombies left out."""
    found = []
    for name in os.listdir("/proc"):
        # Only of the group's own processes is more asked than this one call: the daemon's streams wait meanwhile, and
        # on a host with hundreds of processes reading of each what it is takes tens of milliseconds.
        with contextlib.suppress(OSError):
            if name.isdigit() and os.getpgid(int(name)) == pgid and _lives(int(name)):
                found.append(Member(int(name)))
    return found


def _lives(pid: int) -> bool:
    # "pid (name) state ...": the name may hold blanks and brackets (proc(5))
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"


def moved_bytes(pgid: int) -> dict[int, int]:
    """What each living process of the group has read and written so far, in bytes, by pid.

    Counted are the bytes of its calls, and those that went to and came from disks: what it reads through a mapping,
    as weights are read, shows in the latter alone.
    """
    moved = {}
    for member in members(pgid):
        with contextlib.suppress(OSError):
            lines = (line.partition(": ") for line in Path(f"/proc/{member.pid}/io").read_text().splitlines())
            moved[member.pid] = sum(int(number) for name, _, number in lines if name in _MOVED)
    return moved


def kill(pgid: int) -> None:
    """SIGKILL to every process of the group but the resource trackers, which end by themselves."""
    for member in members(pgid):
        with contextlib.suppress(OSError):
            if _TRACKER not in Path(f"/proc/{member.pid}/cmdline").read_bytes():
                os.kill(member.pid, signal.SIGKILL)
