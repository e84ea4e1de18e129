"""Who asks: the key that a request came with, and what it lets it do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from arena_server.errors import ModelNotAllowed


class Scope(StrEnum):
    """What a key is for. `admin` includes the others."""

    INFERENCE = "inference"
    ARENA = "arena"
    METRICS = "metrics"
    ADMIN = "admin"


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Caller:
    """`key` is the id of the key that was shown, None for none; `address` the client's, as far as proxies are trusted.

    `models` are the only ones it may ask, by the names or aliases of its allow-list; None: all.
    """

    key: str | None = None
    address: str = ""
    scopes: frozenset[Scope] = ALL_SCOPES
    models: frozenset[str] | None = None

    @property
    def share(self) -> str:
        """Between whom the pool's queue is shared fairly: keys; those without one, addresses."""
        return f"key:{self.key}" if self.key is not None else f"address:{self.address}"

    def may_ask(self, *names: str) -> bool:
        """Whether it may ask a model that has these names."""
        return self.models is None or not self.models.isdisjoint(names)

    def check_model(self, *names: str) -> None:
        """As `may_ask`, of the model that was asked for by the first of them. Raises ModelNotAllowed."""
        if not self.may_ask(*names):
            raise ModelNotAllowed(names[0])


# Outside of requests, and where nobody has to show a key.
ANYBODY = Caller()
