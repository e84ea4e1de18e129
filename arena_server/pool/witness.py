"""Who is told what the pool does, to count it."""

from __future__ import annotations

from typing import Protocol

from arena_server.engine.base import Engine
from arena_server.pool.events import Refusal
from arena_server.pool.why import Cause


class Witness(Protocol):
    """Told in the middle of the pool's work: nothing here but `leaves` waits, and nothing raises."""

    def ordered(self, kind: str, model: str, cause: Cause) -> None:
        """A transition begins: `kind` is load, sleep, wake or stop."""
        ...

    def took(self, kind: str, model: str, seconds: float) -> None:
        """A transition ended well, after so long."""
        ...

    def failed(self, kind: str, model: str) -> None:
        """A load, sleep or wake ended badly."""
        ...

    def crashed(self, model: str) -> None:
        """An engine ended by itself."""
        ...

    def refused(self, refusal: Refusal) -> None:
        """A ticket is refused."""
        ...

    async def leaves(self, engine: Engine) -> bool:
        """An engine that is awake and well is about to be put to sleep or stopped: the last moment to ask it anything.

        The transition waits for this, so it has to be quick. Returns whether the engine has answered.
        """
        ...


class NoWitness:
    """Counts nothing."""

    def ordered(self, kind: str, model: str, cause: Cause) -> None:
        """See `Witness`."""

    def took(self, kind: str, model: str, seconds: float) -> None:
        """See `Witness`."""

    def failed(self, kind: str, model: str) -> None:
        """See `Witness`."""

    def crashed(self, model: str) -> None:
        """See `Witness`."""

    def refused(self, refusal: Refusal) -> None:
        """See `Witness`."""

    async def leaves(self, engine: Engine) -> bool:
        """See `Witness`."""
        return True
