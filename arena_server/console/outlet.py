"""Where an answer goes as it comes: a terminal, or a pipe or file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from arena_server.clock import Clock
from arena_server.console.talk import Piece
from arena_server.console.terminal import taken
from arena_server.console.words import clean, took

REFRESH_PER_S = 10


class Outlet(Protocol):
    """Takes an answer, inside of the block of `answering`."""

    def answering(self, model: str) -> contextlib.AbstractContextManager[None]:
        """For as long as the model is asked; the last line is ended at the end."""

    def told(self, notice: str) -> None:
        """What is waited for, in the daemon's words."""

    def piece(self, piece: Piece) -> None:
        """Some more of the answer."""


class Pipe:
    """Gets the answer's text and nothing else."""

    def __init__(self) -> None:
        self._last = "\n"

    @contextlib.contextmanager
    def answering(self, model: str) -> Iterator[None]:
        """See `Outlet`."""
        self._last = "\n"
        try:
            yield
        finally:
            if not self._last.endswith("\n"):
                print(flush=True)

    def told(self, notice: str) -> None:
        """See `Outlet`; whoever reads a pipe waits in silence."""

    def piece(self, piece: Piece) -> None:
        """See `Outlet`; thoughts are left out."""
        if not piece.thought:
            print(piece.text, end="", flush=True)
            self._last = piece.text


class Terminal:
    """Shows thoughts too, dim, and before them what is waited for in a line that goes away."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._spinner = Spinner("dots")
        self._live: Live | None = None
        self._words = ""
        self._asked = 0.0
        self._last = Piece("", False)

    @contextlib.contextmanager
    def answering(self, model: str) -> Iterator[None]:
        """See `Outlet`. Keys are not echoed meanwhile, and wait for the next prompt."""
        self._words, self._asked, self._last = f"asked {clean(model)}", self._clock.now(), Piece("", False)
        with taken():
            self._live = Live(
                console=self._console,
                get_renderable=self._line,
                transient=True,
                refresh_per_second=REFRESH_PER_S,
            )
            try:
                self._live.start(refresh=True)
                yield
            finally:
                self._stop_waiting()
                if self._last.text and not self._last.text.endswith("\n"):
                    self._console.out("")

    def told(self, notice: str) -> None:
        """See `Outlet`."""
        self._words = clean(notice) or self._words

    def piece(self, piece: Piece) -> None:
        """See `Outlet`."""
        self._stop_waiting()
        if self._last.thought and not piece.thought:
            self._console.out("\n")
        self._console.out(piece.text, style="dim" if piece.thought else None, end="", highlight=False)
        self._last = piece

    def _line(self) -> Spinner:
        line = Text(f"{self._words} … {took(self._clock.now() - self._asked)}", style="dim")
        line.truncate(max(self._console.width - 3, 1), overflow="ellipsis")
        self._spinner.update(text=line)
        return self._spinner

    def _stop_waiting(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()
