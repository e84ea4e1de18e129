"""What can go wrong while models are looked at or fetched."""

from __future__ import annotations

from arena_server.errors import ArenaError, ConfigError


class PlanError(ArenaError):
    """Something about one model, or about the hub, that a person has to act on. One line."""


class HubGone(PlanError):
    """The hub cannot be reached, or cannot answer now: whoever has all in the cache can do without."""


class UsageError(ConfigError):
    """The command cannot be carried out as it was given: exit status 2, as for a wrong configuration."""

    def __init__(self, message: str) -> None:
        super().__init__([message])
