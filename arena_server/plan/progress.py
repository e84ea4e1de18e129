"""How far a download is: a bar on a terminal, now and then a line in a pipe."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

LINE_EVERY_S = 10.0
UNITS = ("B", "KB", "MB", "GB", "TB")


class Progress(Protocol):
    """Counts what has come; may be told from any thread."""

    def add(self, size: int) -> None:
        """So many bytes more, or less."""


def size_text(size: int) -> str:
    """Bytes as `15.2 GB`: in powers of 1000, as disks and downloads are sold."""
    value = float(size)
    for unit in UNITS:
        if abs(value) < 999.5 or unit == UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


@contextlib.contextmanager
def open_progress(title: str, total_bytes: int) -> Iterator[Progress]:
    """Show the progress of so many bytes while the block runs."""
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=console, expand=True) as bars:
            yield _Bar(bars, title, total_bytes)
    else:
        yield _Lines(title, total_bytes)


class _Bar:
    def __init__(self, bars: Bars, title: str, total_bytes: int) -> None:
        self._bars = bars
        self._task = bars.add_task(title, total=total_bytes)

    def add(self, size: int) -> None:
        self._bars.advance(self._task, size)


class _Lines:
    def __init__(self, title: str, total_bytes: int) -> None:
        self._title = title
        self._total = total_bytes
        self._done = 0
        self._said = time.monotonic()
        self._lock = threading.Lock()
        print(f"{title}: fetching {size_text(total_bytes)}", flush=True)

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            if time.monotonic() - self._said >= LINE_EVERY_S:
                self._said = time.monotonic()
                share = self._done / self._total if self._total else 1.0
                print(f"{self._title}: {share:.0%} of {size_text(self._total)}", file=sys.stdout, flush=True)
