"""A thread that does one call after the other, and may be left behind with one that never returns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """Does what it is given, in that order. `submit` and `close` are for one thread alone.

    Not a ThreadPoolExecutor: an interpreter that ends waits for those, and so for a database that hangs.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._begun = False
        self._closed = False
        self._current: Future[Any] | None = None

    @property
    def current(self) -> Future[Any] | None:
        """The call that is being done."""
        return self._current

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Have it done. Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the worker is closed")
        if not self._begun:
            self._thread.start()
            self._begun = True
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        """End the thread once it has done what it was given; waits for nothing."""
        self._closed = True
        self._calls.put(None)

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            future, call = given
            if future.set_running_or_notify_cancel():
                self._current = future
                _do(future, call)
                self._current = None
            del given, future, call  # else their results would be kept until the next call


def _do(future: Future[T], call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as e:  # whoever waits for it raises it
        future.set_exception(e)
    else:
        future.set_result(result)
