"""A daemon in a thread of its own: the browser's driver has the test's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import uvloop

from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.fake_engine import FakeEngine
from tests.support.gate import LIMIT_S, until

T = TypeVar("T")

# Two of three fit at a time.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "alpha": {"model": "org/alpha", "gpu_memory_utilization": 0.4, "aliases": ("gpt-4o",)},
    "beta": {"model": "org/beta", "gpu_memory_utilization": 0.4},
    "org/gamma": {"model": "org/gamma", "gpu_memory_utilization": 0.4},
}
# Tests of the page are no tests of the pace.
ARENA: Mapping[str, Any] = {"max_chars_per_s": 1_000_000}


class HeldDaemon:
    """A `FakeDaemon`, which lives in another thread's loop: everything about it is done there."""

    def __init__(self, daemon: FakeDaemon, loop: asyncio.AbstractEventLoop) -> None:
        self.url = daemon.url
        self._daemon = daemon
        self._loop = loop

    def do(self, what: Callable[[FakeDaemon], T]) -> T:
        """Do something with it, in its loop."""

        async def done(daemon: FakeDaemon) -> T:
            return what(daemon)

        return self.run(done)

    def run(self, what: Callable[[FakeDaemon], Coroutine[Any, Any, T]]) -> T:
        """Do something with it that takes its time."""
        return asyncio.run_coroutine_threadsafe(what(self._daemon), self._loop).result(LIMIT_S)

    def wait(self, condition: Callable[[FakeDaemon], object], what: str) -> None:
        """Return as soon as something about it is so."""
        waiting = until(lambda: condition(self._daemon), what)
        asyncio.run_coroutine_threadsafe(waiting, self._loop).result(2 * LIMIT_S)

    def engines(self, what: Callable[[FakeEngine], object]) -> None:
        """Do something with every engine."""
        self.do(lambda d: [what(e) for e in d.engines.values()])


@contextlib.contextmanager
def held_daemon(models: Mapping[str, Mapping[str, Any]] = MODELS, **sections: Any) -> Iterator[HeldDaemon]:
    """A running daemon; it has ended, and its thread too, when this does."""
    ready: Future[HeldDaemon] = Future()
    stop: list[Callable[[], object]] = []

    async def live() -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        async with running_daemon(models, **{"arena": ARENA, **sections}) as daemon:
            ready.set_result(HeldDaemon(daemon, loop))
            await ended.wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(live())
        except BaseException as e:
            if ready.done():
                failures.append(e)
            else:
                ready.set_exception(e)

    failures: list[BaseException] = []
    thread = threading.Thread(target=run, name="daemon")
    thread.start()
    try:
        yield ready.result(LIMIT_S)
    finally:
        for end in stop:
            end()
        thread.join(LIMIT_S)
    assert not thread.is_alive(), "the daemon does not end"
    if failures:
        raise failures[0]
