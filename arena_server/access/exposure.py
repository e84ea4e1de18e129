"""Who can reach the port, and whether that is safe: a daemon without keys is for its own machine alone."""

from __future__ import annotations

import logging

from arena_server.access.address import is_loopback
from arena_server.config import Config
from arena_server.errors import ConfigError
from arena_server.store.errors import StoreUnavailable
from arena_server.store.url import sqlite_file, store_url

logger = logging.getLogger(__name__)

LOOK_TIMEOUT_S = 10.0


def check_exposure(config: Config, address: str, *, insecure: bool) -> bool:
    """Whether everybody who reaches `address`, where the port is, may do everything as long as there is no key.

    Raises ConfigError if other machines reach it, there is no key, and that was not said to be meant (`insecure`).
    """
    if is_loopback(address):
        return True
    if insecure:
        logger.warning("--insecure: as long as there is no API key, whoever reaches %s may do everything", address)
        return True
    if not config.access.keys and not _has_keys(config):
        raise ConfigError(
            [
                f"{config.file}: server.host: other machines can reach {address}, and there is no API key.",
                f"Make one: arena-server keys create NAME --scope admin --config {config.file}",
                "Or set server.host to 127.0.0.1, for this machine alone or a proxy on it;",
                "or let everybody in who reaches the port: arena-server serve --insecure",
            ]
        )
    return False


def _has_keys(config: Config) -> bool:
    """Whether the store has any key; also if it cannot be read now, as then nobody is let in until it can be."""
    url = store_url(config.arena.database, config.state_dir)
    if (path := sqlite_file(url)) is not None and not path.exists():
        return False
    from arena_server.store.database import Database  # SQLAlchemy: half a second
    from arena_server.store.keys import list_keys

    database = Database(url, LOOK_TIMEOUT_S)
    try:
        with database.transaction(write=False) as connection:
            return bool(list_keys(connection))
    except StoreUnavailable as e:
        logger.error("Whether there are API keys is not known; nobody is let in until it is: %s", e)
        return True
    finally:
        database.close()
