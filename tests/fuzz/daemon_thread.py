"""A daemon of fake engines in a thread of its own, for tests that are no coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import uvloop

from tests.support.daemon_app import FakeDaemon, running_daemon

T = TypeVar("T")


class DaemonThread:
    """The daemon, and its event loop."""

    def __init__(self, daemon: FakeDaemon, loop: asyncio.AbstractEventLoop) -> None:
        self.daemon = daemon
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do that in the daemon's loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


@contextlib.contextmanager
def daemon_thread(**settings: Any) -> Iterator[DaemonThread]:
    """See above; `settings` as for `running_daemon`."""
    up = threading.Event()
    found: list[tuple[DaemonThread, asyncio.Event]] = []

    async def live() -> None:
        async with running_daemon(**settings) as daemon:
            end = asyncio.Event()
            found.append((DaemonThread(daemon, asyncio.get_running_loop()), end))
            up.set()
            await end.wait()

    failures: list[BaseException] = []

    def work() -> None:
        try:
            uvloop.run(live())
        except BaseException as e:
            failures.append(e)
        finally:
            up.set()

    thread = threading.Thread(target=work)
    thread.start()
    up.wait()
    try:
        if found:
            yield found[0][0]
    finally:
        if found:
            found[0][0]._loop.call_soon_threadsafe(found[0][1].set)
        thread.join()
    if failures:
        raise failures[0]
