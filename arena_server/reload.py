"""Reads the configuration again while the daemon runs, and changes what can be changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from arena_server.api.admin import Reloaded
from arena_server.api.names import Catalogue
from arena_server.blueprint import Blueprint
from arena_server.config import Config, load_config
from arena_server.engine.base import Engine
from arena_server.errors import ShuttingDown
from arena_server.pool.pool import EnginePart, Pool

logger = logging.getLogger(__name__)

# Read at the start alone; of the pool's keys those that engines and routes are made with.
STARTUP_SECTIONS = ("server", "arena", "tracing", "engine_start", "state_dir", "run_dir", "log_level")
STARTUP_POOL_KEYS = ("wait_notice_s", "load_timeout_s", "load_stall_s", "sleep_timeout_s", "progress_stall_s")


@dataclass(slots=True)
class Reloader:
    """Puts configurations into force. `draw` and `make_engine` are the composition root's.

    `followers` are told of each that is in force now; `extended` makes of the file's what is to be in force. Whoever
    applies one holds `one_at_a_time`.
    """

    pool: Pool
    catalogue: Catalogue
    blueprint: Blueprint
    draw: Callable[[Config, Blueprint], Blueprint]
    make_engine: Callable[[str, Blueprint], Engine]
    followers: list[Callable[[Config], None]] = field(default_factory=list)
    extended: Callable[[Config], Config] = lambda file: file
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    _started_with: Config = field(init=False)

    def __post_init__(self) -> None:
        self._started_with = self.blueprint.config

    async def reload(self) -> Reloaded:
        """Read the file; if anything in it is wrong, nothing changes. Raises ConfigError."""
        async with self.one_at_a_time:  # or what was read first might be put into force last
            file = await asyncio.to_thread(load_config, Path(self.blueprint.config.file))
            report = self.apply(self.extended(file))
        logger.info("%s read again: %s", file.file, report)
        return report

    def apply(self, config: Config) -> Reloaded:
        """Put a configuration into force. Engines of models that did not change are not touched. Raises ConfigError,
        and ShuttingDown.
        """
        if self.pool.closing:  # it knows no new models any more, and the catalogue must not
            raise ShuttingDown("The server is shutting down.")
        old, new = self.blueprint, self.draw(config, self.blueprint)
        before, after = old.config.models, config.models
        added = [name for name in after if name not in before]
        kept = [name for name in after if name in before]
        changed = [name for name in kept if not new.same_engine(name, old)]
        parts = {name: EnginePart(self.make_engine(name, new), new.keys[name]) for name in [*added, *changed]}
        self.blueprint = new
        self.catalogue.replace(config, new.homes)
        self.pool.reconfigure(new.specs, parts, new.budget, new.limits, new.reserve_bytes)
        for follow in self.followers:
            follow(config)
        return Reloaded(
            added=added,
            removed=[name for name in before if name not in after],
            changed=changed,
            unchanged=[name for name in kept if name not in changed],
            needs_restart=_needs_restart(self._started_with, config),
        )


def _needs_restart(old: Config, new: Config) -> list[str]:
    """The keys that are other than in `old`, with which the daemon started, and are only read then."""
    keys = []
    for section in STARTUP_SECTIONS:
        was, now = getattr(old, section), getattr(new, section)
        if section == "server":
            keys += [f"server.{key}" for key in type(now).model_fields if getattr(was, key) != getattr(now, key)]
        elif was != now:
            keys.append(section)
    keys += [f"pool.{key}" for key in STARTUP_POOL_KEYS if getattr(old.pool, key) != getattr(new.pool, key)]
    return keys
