"""All that is counted while it happens, and the registry in which it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry

from arena_server.metrics.engines import Engines
from arena_server.metrics.pool_tally import PoolTally
from arena_server.metrics.refusal_tally import RefusalTally
from arena_server.metrics.reload_tally import ReloadTally
from arena_server.metrics.request_tally import RequestTally
from arena_server.metrics.tokens import Tokens


class Tallies:
    """Made before the pool, which is to be counted."""

    def __init__(self, known: Callable[[str], bool]) -> None:
        """`known` tells whether a model of that name is configured."""
        self.registry = CollectorRegistry(auto_describe=False)
        self.tokens = Tokens(self.registry)
        self.engines = Engines(self.registry, self.tokens)
        self.pool = PoolTally(self.registry, self.engines)
        self.requests = RequestTally(self.registry, known)
        self.reloads = ReloadTally(self.registry)
        self.refusals = RefusalTally(self.registry)

    def know(self, models: Iterable[str]) -> None:
        """Show these models, though nothing was counted of them: what begins at 1 has no increase to be seen."""
        for model in models:
            self.tokens.know(model)
            self.engines.know(model)
            self.pool.know(model)
            self.requests.know(model)
