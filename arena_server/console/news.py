"""The pool asked again and again, in a thread of its own: keys must not wait for a daemon that does not answer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from arena_server.clock import Clock
from arena_server.console.api import Api
from arena_server.console.picture import Decision, Picture
from arena_server.errors import ArenaError


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the pool showed, and when."""

    at: float
    picture: Picture
    decisions: tuple[Decision, ...]


def look(api: Api, clock: Clock) -> Look:
    """Ask once; raises an ArenaError where there is no use in the answer."""
    picture = api.pool()
    return Look(clock.now(), picture, api.decisions())


class News:
    """Looks every `interval_s`, and calls `tell` after each."""

    def __init__(self, api: Api, clock: Clock, interval_s: float, tell: Callable[[], None]) -> None:
        self._api = api
        self._clock = clock
        self._interval_s = interval_s
        self._tell = tell
        self._found: queue.SimpleQueue[Look | ArenaError] = queue.SimpleQueue()
        self._closed = threading.Event()
        # A daemon thread: it may be in the middle of a request when the screen is left.
        self._thread = threading.Thread(target=self._run, name="news", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Tell no more."""
        self._closed.set()

    def all(self) -> Iterator[Look | ArenaError]:
        """What has been found since the last call."""
        while True:
            try:
                yield self._found.get_nowait()
            except queue.Empty:
                return

    def _run(self) -> None:
        while not self._closed.wait(self._interval_s):
            try:
                found: Look | ArenaError = look(self._api, self._clock)
            except ArenaError as e:
                found = e
            self._found.put(found)
            if not self._closed.is_set():
                self._tell()
