"""An engine's output: a pipe in, lines out, the last ones kept."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable

from arena_server.engine.progress import plain

KEPT_LINES = 200
MAX_LINE_BYTES = 8192


class EngineOutput(asyncio.Protocol):
    """Reads one engine's stdout and stderr.

    Lines end in a newline, or in a carriage return, as progress bars redraw themselves: those go to
    `on_progress` alone, so that a bar does not push the real lines out of the kept ones.
    """

    def __init__(self, on_line: Callable[[str], None], on_progress: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._on_progress = on_progress
        self._rest = b""
        self._drawing = False  # the rest follows a carriage return: it is a bar, seen while it is drawn
        self._shown = ""
        self._eof = asyncio.Event()
        self._transport: asyncio.BaseTransport | None = None
        self._since_mark = 0
        self.tail: deque[str] = deque(maxlen=KEPT_LINES)

    async def open(self) -> int:
        """Make the pipe and start reading. Returns the writing end, which the caller closes."""
        reading, writing = os.pipe()
        pipe = os.fdopen(reading, "rb", 0)
        opening = asyncio.ensure_future(asyncio.get_running_loop().connect_read_pipe(lambda: self, pipe))
        try:
            self._transport, _ = await asyncio.shield(opening)
        except asyncio.CancelledError:
            os.close(writing)  # the transport, which is there a moment later, then sees the end and closes its own
            raise
        return writing

    def mark(self) -> None:
        """Remember this moment, for `tail_since_mark`."""
        self._since_mark = 0

    @property
    def tail_since_mark(self) -> list[str]:
        """Those of the kept lines that came since `mark`."""
        return list(self.tail)[len(self.tail) - min(self._since_mark, len(self.tail)) :]

    async def drained(self, timeout_s: float) -> None:
        """Wait until every writer is gone and all is read, or for `timeout_s` seconds."""
        try:
            await asyncio.wait_for(self._eof.wait(), timeout_s)
        except TimeoutError:
            self.close()

    def close(self) -> None:
        """Stop reading."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Split what has come into lines (asyncio.Protocol)."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._end_line(line)
        # A carriage return at the very end may be one half of a line's end.
        *states, last = rest.removesuffix(b"\r").split(b"\r")
        self._drawing = self._drawing or bool(states) or rest.endswith(b"\r")
        for state in [*states, last] if self._drawing else []:
            self._show(_text(state))
        self._rest = last + (b"\r" if rest.endswith(b"\r") else b"")
        if len(self._rest) > MAX_LINE_BYTES:  # an endless line must not grow the daemon
            self._end_line(self._rest)
            self._rest = b""

    def _end_line(self, line: bytes) -> None:
        *states, last = line[-MAX_LINE_BYTES:].removesuffix(b"\r").split(b"\r")
        for state in states:
            self._show(_text(state))
        if text := _text(last):
            self.tail.append(text)
            self._since_mark += 1
            self._show(text)
            self._on_line(text)
        self._drawing, self._shown = False, ""

    def _show(self, state: str) -> None:
        """Pass on a state of the line that is being drawn, once."""
        if state and state != self._shown:
            self._shown = state
            self._on_progress(state)

    def connection_lost(self, exc: Exception | None) -> None:
        """Every writer is gone (asyncio.Protocol)."""
        self._end_line(self._rest)
        self._rest = b""
        self._eof.set()


def _text(line: bytes) -> str:
    return plain(line.decode(errors="replace"))
