"""Whether the daemon is well after what was done to it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from tests.support.daemon_app import FakeDaemon
from tests.support.raw_client import Header, once, post

# One request may not keep all others waiting for longer.
MOST_HELD_S = 1.0
TICK_S = 0.005


async def check_well(daemon: FakeDaemon, headers: Sequence[Header] = ()) -> None:
    """It answers, and nothing is left of what was asked before."""
    assert (await once(daemon.port, "GET", "/health")).status == 200
    answer = await post(daemon.port, "/v1/completions", {"model": "alpha", "prompt": "well"}, headers)
    assert (answer.status, answer.json()["choices"][0]["text"]) == (200, "well well well ")
    await daemon.idle("alpha")
    assert not daemon.pool._core.leases
    assert not daemon.pool._core.queue


@contextlib.asynccontextmanager
async def watched(most_held_s: float = MOST_HELD_S) -> AsyncIterator[None]:
    """Fails if something within holds the event loop, which the daemon under test shares, for longer."""
    held_s = 0.0

    async def tick() -> None:
        nonlocal held_s
        while True:
            before = time.thread_time()  # its own work only: other tests run beside this one
            await asyncio.sleep(TICK_S)
            held_s = max(held_s, time.thread_time() - before)

    ticking = asyncio.create_task(tick())
    try:
        yield
        await asyncio.sleep(0)
    finally:
        ticking.cancel()
    assert held_s < most_held_s, f"the event loop stood still for {held_s:.2f} s"
