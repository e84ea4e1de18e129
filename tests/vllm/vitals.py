"""What a daemon holds of its machine: whatever grows from swap to swap ends every service some day."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.vllm.daemon import Daemon

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Vitals:
    """Counts, and sizes in bytes, at one moment."""

    daemon_fds: int
    zygote_fds: int
    daemon_threads: int
    zygote_threads: int
    processes: int
    daemon_rss: int
    zygote_rss: int
    engine_dirs: int

    def grown(self, before: Vitals) -> list[str]:
        """The counts that are higher than before. (Sizes are another matter: allocators keep what they have.)"""
        counts = ("daemon_fds", "zygote_fds", "daemon_threads", "zygote_threads", "processes", "engine_dirs")
        return [name for name in counts if getattr(self, name) > getattr(before, name)]

    def __str__(self) -> str:
        return (
            f"descriptors {self.daemon_fds} daemon, {self.zygote_fds} zygote; "
            f"threads {self.daemon_threads} daemon, {self.zygote_threads} zygote; {self.processes} processes; "
            f"RSS {self.daemon_rss / 2**20:.1f} MiB daemon, {self.zygote_rss / 2**20:.1f} MiB zygote; "
            f"{self.engine_dirs} engine directories"
        )


def vitals(daemon: Daemon) -> Vitals:
    """The daemon's now."""
    assert daemon.process is not None
    main = psutil.Process(daemon.process.pid)
    (zygote,) = daemon.titled("arena-server: zygote")
    (mine,) = daemon.run_dir.iterdir()
    return Vitals(
        daemon_fds=main.num_fds(),
        zygote_fds=zygote.num_fds(),
        daemon_threads=main.num_threads(),
        zygote_threads=zygote.num_threads(),
        processes=len(daemon.processes()),
        daemon_rss=main.memory_info().rss,
        zygote_rss=zygote.memory_info().rss,
        engine_dirs=len(list(mine.iterdir())),
    )


def shared_memory() -> set[str]:
    """The names of all segments, anybody's."""
    return {entry.name for entry in SHARED_MEMORY.iterdir()}


def abandoned(before: set[str]) -> set[str]:
    """Segments that are new since `before` and that no living process has mapped or open: nobody will remove them.

    By use, not by number: other programs on the machine (another test run, say) have segments of their own.
    """
    new = shared_memory() - before
    return new - _in_use() if new else set()


def _in_use() -> set[str]:
    names = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                for line in (entry / "maps").read_text(errors="replace").splitlines():
                    _, there, name = line.partition(f"{SHARED_MEMORY}/")
                    if there:
                        names.add(name.removesuffix(" (deleted)"))
            with contextlib.suppress(OSError):
                for fd in (entry / "fd").iterdir():
                    with contextlib.suppress(OSError):  # closed meanwhile
                        target = fd.readlink()
                        if target.parent == SHARED_MEMORY:
                            names.add(target.name.removesuffix(" (deleted)"))
    return names
