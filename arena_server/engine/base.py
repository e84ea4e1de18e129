"""What the pool and the relay ask of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from arena_server.engine.client import EngineClient


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load is: a phase in words, and the part of that phase that is done (0 to 1) where it is known."""

    phase: str
    fraction: float | None = None

    def __str__(self) -> str:
        return self.phase if self.fraction is None else f"{self.phase} {self.fraction:.0%}"


class EngineError(Exception):
    """An engine could not be loaded. The text is the reason in one line, in the engine's own words if it has any."""


class Engine(Protocol):
    """One model's engine. At most one of `load` and `stop` runs at a time; the pool sees to that.

    An implementation passes tests/engine_contract.py.
    """

    @property
    def name(self) -> str:
        """The model's configured name."""
        ...

    @property
    def progress(self) -> LoadProgress | None:
        """Where the load is; None when none is under way."""
        ...

    @property
    def log_tail(self) -> list[str]:
        """The last lines (at most 200) the engine printed, oldest first."""
        ...

    @property
    def client(self) -> EngineClient:
        """An HTTP client for the loaded engine; paths are vLLM's routes. Between `load` and `stop` only."""
        ...

    async def load(self) -> None:
        """Start the engine; return when it answers requests.

        Raises EngineError. After that, or after a cancellation, only `stop` may be called.
        """
        ...

    async def stop(self) -> None:
        """End the engine, whatever its state; return when none of its processes is left. May be called twice."""
        ...

    async def died(self) -> str:
        """Wait until a loaded engine ends without having been told to; return the reason in one line."""
        ...
