"""A lease: the right to use some engines until it is released."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from arena_server.engine.base import Engine


class Lease:
    """Its engines are awake until `release`, which has to come: use it in a `with` block."""

    def __init__(self, engines: Mapping[str, Engine], release: Callable[[frozenset[str]], None]) -> None:
        self.engines = engines
        self._release = release
        self._held = frozenset(engines)

    def release(self, *models: str) -> None:
        """Give these models' engines back, all by default; again does nothing."""
        done = self._held & frozenset(models) if models else self._held
        self._held -= done
        if done:
            self._release(done)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
