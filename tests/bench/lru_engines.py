"""The plain LRU of the evening's benchmark, over fake engines."""

from __future__ import annotations

from pathlib import Path

from bench.evening.lru import LruEngines
from tests.support.fake_engine import FakeEngine


class Engines:
    """Fake engines under the LRU's hand."""

    def __init__(self, directory: Path, room: int) -> None:
        self.fakes = {name: FakeEngine(name, directory / name) for name in "abcd"}
        self.lru = LruEngines(dict(self.fakes), room)

    @property
    def loaded(self) -> set[str]:
        return {name for name, fake in self.fakes.items() if fake.loaded}

    async def use(self, *names: str) -> None:
        """Each of them, for a moment."""
        for name in names:
            await self.lru.take(name)
            await self.lru.give_back(name)
