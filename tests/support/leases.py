"""What several tests ask of a pool and its engines."""

from __future__ import annotations

import asyncio

from arena_server.pool.lease import Lease
from tests.support.daemon_app import Parts
from tests.support.gate import until
from tests.support.replies import Received


def ask(parts: Parts, *models: str) -> asyncio.Task[Lease]:
    """Ask for a lease on all the models, in a task."""
    task = asyncio.create_task(parts.pool.acquire(models))
    # A test that fails leaves it behind; its exception then is not the one to show.
    task.add_done_callback(lambda t: t.cancelled() or t.exception())
    return task


async def use(parts: Parts, *models: str) -> None:
    """Lease the models and give them back."""
    async with parts.pool.lease(models):
        pass


async def waits(parts: Parts, model: str, count: int = 1) -> None:
    """Return when `count` wait for the model."""
    await until(lambda: parts.view(model).waiting == count, f"{count} to wait for {model}")


async def stands_still(request: Received) -> None:
    """Return when the engine can send no more of its answer, for nobody takes it."""
    seen: list[int] = []

    def same_as_long_ago() -> bool:
        seen.append(request.sent)
        return len(seen) > 100 and seen[-100] == seen[-1] > 0

    await until(same_as_long_ago, "the engine to stand still")
