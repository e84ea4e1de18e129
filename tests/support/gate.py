"""What lets a test decide when something goes on, and wait until something is so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Nothing here takes a hundredth of this on an idle machine; a test that reaches it has failed.
LIMIT_S = 30.0


class Gate:
    """Lets everybody through, until it is told to hold; then as many as it is told to release, first come first."""

    def __init__(self) -> None:
        self._turnstile: asyncio.Semaphore | None = None

    def hold(self) -> None:
        """Let nobody through from now on."""
        if self._turnstile is None:
            self._turnstile = asyncio.Semaphore(0)

    def release(self, count: int | None = None) -> None:
        """Let `count` more through; all for ever, by default."""
        turnstile = self._turnstile
        if turnstile is None:
            return
        if count is None:
            self._turnstile, count = None, 1
        for _ in range(count):
            turnstile.release()

    async def wait(self) -> None:
        """Pass through, as soon as that is allowed."""
        turnstile = self._turnstile
        if turnstile is not None:
            await turnstile.acquire()
            if self._turnstile is not turnstile:
                turnstile.release()  # open for good: the next may come too


async def until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as `condition` holds; fail if that takes too long."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LIMIT_S
    while not condition():
        assert loop.time() < deadline, f"waited {LIMIT_S:g} s in vain: {what}"
        await asyncio.sleep(0.001)


async def turns(count: int = 20) -> None:
    """Let everything that can go on without the outside world do so."""
    for _ in range(count):
        await asyncio.sleep(0)
