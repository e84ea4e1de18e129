"""The terminal of a live screen: keys without Enter, and a wake-up for keys, news, a new size and the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from types import FrameType

LEAVE = frozenset(b"qQ\x03\x04")


class Terminal:
    """Where a live screen waits. Made by `taken`."""

    def __init__(self, keys: int | None, woken: int, wake: Callable[[], None]) -> None:
        self._keys = keys
        self._woken = woken
        self.wake = wake

    def wait(self, timeout_s: float) -> bool:
        """Until something happened or the time is over. Whether to leave."""
        watched = [self._woken] if self._keys is None else [self._woken, self._keys]
        ready, _, _ = select.select(watched, [], [], timeout_s)
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._keys is None or self._keys not in ready:
            return False
        typed = os.read(self._keys, 4096)
        return not typed or bool(LEAVE & set(typed))


@contextlib.contextmanager
def taken() -> Iterator[Terminal]:
    """The terminal of this process, given back as it was."""
    woken, waker = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waker, False)

    def wake() -> None:
        with contextlib.suppress(BlockingIOError):  # full of wake-ups: it will wake
            os.write(waker, b"\0")

    with contextlib.ExitStack() as stack:
        stack.callback(os.close, woken)
        stack.callback(os.close, waker)
        stack.enter_context(_signals(waker))
        keys = stack.enter_context(_keys()) if sys.stdin.isatty() else None
        yield Terminal(keys, woken, wake)


@contextlib.contextmanager
def _keys() -> Iterator[int]:
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _signals(waker: int) -> Iterator[None]:
    """A new size wakes; an end from outside unwinds, so that the terminal is given back."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handlers: dict[signal.Signals, Callable[[int, FrameType | None], object] | signal.Handlers] = {
        signal.SIGWINCH: lambda *_: None,
        signal.SIGTERM: leave,
        signal.SIGHUP: leave,
        signal.SIGTSTP: signal.SIG_IGN,  # a stopped screen would leave the shell on it
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wakeup = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
