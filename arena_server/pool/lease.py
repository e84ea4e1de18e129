"""A lease: the right to use some engines until it is released."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from arena_server.engine.base import Engine


class Lease:
    """Its engines are awake until `release`, which has to come: use it in a `with` block."""

    def __init__(self, engines: Mapping[str, Engine], release: Callable[[], None]) -> None:
        self.engines = engines
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Give the engines back; again does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
