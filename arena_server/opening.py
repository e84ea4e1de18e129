"""What has to be read from the database before anybody can be let in: keys, models added at run time, what was used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from arena_server.errors import ArenaError

logger = logging.getLogger(__name__)

TRY_AGAIN_S = 2.0

Step = Callable[[], Awaitable[None]]


class CannotOpen(ArenaError):
    """A defect keeps the daemon from reading what it needs; the log has it, which the caller is not to see."""

    status = 503
    kind = "service_unavailable_error"
    code = "not_open"

    def __init__(self) -> None:
        super().__init__(
            "The server cannot read what it needs before it lets anybody in; its log says why.",
            retry_after_s=TRY_AGAIN_S,
        )


class Opening:
    """Takes its steps in order, each again until it succeeds.

    The port is open meanwhile: `/health` answers, and who comes waits the half second that it takes. Where a step
    fails, they are told so at once; nobody is let in on the strength of keys that could not be read.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        """A step raises ArenaError if it cannot be taken now."""
        self._steps = steps
        self._changed = asyncio.Condition()
        self._done = False
        self._trouble: ArenaError | None = None

    async def run(self) -> None:
        """Take them all."""
        for step in self._steps:
            await self._take(step)
        await self._tell(done=True, trouble=None)

    async def passed(self) -> None:
        """Wait until all are taken. Raises what the last try of one failed with, if it did."""
        if self._done:
            return
        async with self._changed:
            await self._changed.wait_for(lambda: self._done or self._trouble is not None)
        if not self._done and self._trouble is not None:
            raise self._trouble

    async def _take(self, step: Step) -> None:
        while True:
            trouble: ArenaError
            try:
                await step()
            except ArenaError as e:
                if self._trouble is None:
                    logger.error("Nobody is let in until this is mended: %s", e)
                trouble = e
            except Exception:
                # A defect. If it ended this, everybody would wait for ever, and nobody would know what for.
                if not isinstance(self._trouble, CannotOpen):  # once, and not every two seconds
                    logger.exception("Nobody is let in until this is mended")
                trouble = CannotOpen()
            else:
                return
            await self._tell(done=False, trouble=trouble)
            await asyncio.sleep(TRY_AGAIN_S)

    async def _tell(self, *, done: bool, trouble: ArenaError | None) -> None:
        async with self._changed:
            self._done, self._trouble = done, trouble
            self._changed.notify_all()
