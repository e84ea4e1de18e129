"""Has models on other servers connected before anybody asks for them, so that it is known whether they answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from arena_server.config_model import ModelConfig
from arena_server.errors import ArenaError
from arena_server.pool.pool import Pool
from arena_server.pool.residency import Residency

logger = logging.getLogger(__name__)

EVERY_S = 1.0


class Remotes:
    """Loads remote models that are new, and those that failed once the pool would try them again.

    (One whose server is back would else be `failed` for `/health`, and passed over, until a request happened to come.)
    One that an operator stopped stays so until it is asked for.
    """

    def __init__(self, pool: Pool, models: Callable[[], Mapping[str, ModelConfig]]) -> None:
        """`models` are those that are configured now."""
        self._pool = pool
        self._models = models
        self._seen: dict[str, ModelConfig] = {}

    async def run(self) -> None:
        """Look after them, for ever."""
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Have those that are due loaded."""
        remote = {name: model for name, model in self._models().items() if model.remote}
        self._seen = {name: model for name, model in self._seen.items() if name in remote}
        if not remote or self._pool.closing:
            return
        for view in self._pool.summary().models:
            model = remote.get(view.name)
            if model is None or view.residency is not Residency.COLD:
                continue
            if view.error is not None or self._seen.get(view.name) != model:
                self._load(view.name)
                self._seen[view.name] = model

    def _load(self, name: str) -> None:
        try:
            self._pool.load(name)
        except ArenaError as e:  # the queue is full, say: another time
            logger.debug("Connecting %s: %s", name, e)
