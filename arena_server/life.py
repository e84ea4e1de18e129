"""The daemon's life around its application: what begins with it, what goes on beside it, and how all of it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from arena_server.api.admin import Reloaded
from arena_server.config_model import ModelConfig
from arena_server.engine.launcher import Launcher
from arena_server.errors import ArenaError
from arena_server.pool.pool import Pool
from arena_server.systemd import Notifier, status_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Life:
    """`launcher` is what starts engines here, if anything does, and `models` are those at the start.

    `beside` goes on for ever or ends well, each in a task; `endings` are waited for in order, when no engine runs any
    more.
    """

    pool: Pool
    launcher: Launcher | None
    notifier: Notifier
    reload: Callable[[], Awaitable[Reloaded]]
    models: Mapping[str, ModelConfig]
    beside: Sequence[Callable[[], Coroutine[Any, Any, None]]]
    endings: Sequence[Callable[[], Awaitable[None]]]

    @contextlib.asynccontextmanager
    async def __call__(self, app: FastAPI) -> AsyncIterator[None]:
        """The application's lifespan (ASGI)."""
        background: list[asyncio.Task[None]] = []
        telling = asyncio.create_task(self.notifier.keep_telling(self._status_line))
        try:
            if self.launcher is not None:
                if not all(model.remote for model in self.models.values()):
                    await self.launcher.warm_up()
                _on_sighup(self.reload)
            self.pool.look_at_devices()  # before anything is loaded beside what others hold
            background += [_watched(asyncio.create_task(work())) for work in self.beside]
            for name in (name for name, model in self.models.items() if model.preload):
                self._preload(name)
            yield
        finally:
            for task in background:
                task.cancel()
            await self.pool.close()
            for end in self.endings:
                await end()
            if self.launcher is not None:
                await self.launcher.close()
            telling.cancel()  # the last of all: systemd's watchdog looks on to the end

    def _status_line(self) -> str:
        """For `systemctl status`."""
        return status_line(self.pool.where(name).residency for name in self.pool.names)

    def _preload(self, name: str) -> None:
        try:
            self.pool.load(name)
        except ArenaError as e:  # a queue of one place, say: no reason not to serve
            logger.error("Preloading %s: %s", name, e)


def _watched(task: asyncio.Task[None]) -> asyncio.Task[None]:
    """Say at once if it fails: nobody waits for it, so that the daemon would go on without it, and not a word."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A part of the daemon has ended, which a restart brings back", exc_info=error)

    task.add_done_callback(ended)
    return task


def _on_sighup(reload: Callable[[], Awaitable[Reloaded]]) -> None:
    """Let SIGHUP (`systemctl reload`) read the configuration again."""
    running: set[asyncio.Task[None]] = set()

    async def read_again() -> None:
        try:
            await reload()
        except ArenaError as e:
            logger.error("The configuration stays as it was: %s", e)

    def hang_up() -> None:
        task = asyncio.get_running_loop().create_task(read_again())
        running.add(task)
        task.add_done_callback(running.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
