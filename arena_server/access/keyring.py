"""The keys in force: the configuration's, and those made with `arena-server keys`, which the store keeps."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from arena_server.access.key import Key, config_keys, key_of_record, with_included
from arena_server.caller import Caller
from arena_server.config import Config
from arena_server.config_access import AccessConfig
from arena_server.errors import ArenaError, ConfigError
from arena_server.store.key_record import KeyRecord

logger = logging.getLogger(__name__)

# Keys are made and revoked by other processes, too (`arena-server keys ... --config`): in force within two seconds.
LOOK_EVERY_S = 1.0


class Records(Protocol):
    """Where the store's keys come from. Calls may raise ArenaError; a later one may succeed."""

    @property
    def absent(self) -> bool:
        """Whether there is no store yet, and so no key in it."""
        ...

    async def list(self) -> Sequence[KeyRecord]:
        """All keys that were ever made."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    key: Key
    sha256: str
    until: datetime | None  # from then on this text is no good any more


def utc_now() -> datetime:
    """The time of day, in UTC."""
    return datetime.now(UTC)


class Keyring:
    """Knows keys by what clients show. For the event loop's thread.

    What the store said last stays in force while it has trouble.
    """

    def __init__(
        self,
        records: Records,
        config: Config,
        *,
        may_be_open: bool = False,
        environ: Mapping[str, str] = os.environ,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """`may_be_open`: as long as there is no key at all, everybody may do everything. Raises ConfigError."""
        self._records = records
        self._may_be_open = may_be_open
        self._environ = environ
        self._now = now
        self._rows: Sequence[KeyRecord] | None = None  # None: not read yet
        self._stored: Mapping[str, _Entry] = {}
        self._reading = asyncio.Lock()
        self._trouble = ""
        self._was_open = False
        self._configured = _of_config(config, environ)
        self._had_keys = bool(self._configured)
        self.access: AccessConfig = config.access

    def check(self, config: Config) -> None:
        """Raises ConfigError if this configuration's keys cannot be had."""
        _of_config(config, self._environ)

    def configure(self, config: Config) -> None:
        """Put a new configuration's keys into force. Raises ConfigError: then nothing has changed."""
        before, self._configured = self._configured, _of_config(config, self._environ)
        self.access = config.access
        if before and not self._configured and not self._rows and self._may_be_open:
            logger.warning(
                "The last API key was taken out of the configuration. Nobody gets in without one until the daemon is "
                "restarted: from then on whoever reaches the port may do everything. Make a key before that "
                "(arena-server keys create)"
            )
        self._tell()

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything: no key was ever made, and only this machine (or who it is meant for)
        can reach the port. Keys that are over count, and those that this process has seen: the last one's end, or a
        line that is gone from the configuration, must not open the door.
        """
        return self._may_be_open and self._rows is not None and not self._had_keys

    def verify(self, sha256: str) -> Key | None:
        """The key in force whose text has this SHA-256 (`sha256_of`); None if there is none.

        Takes as long whatever the text is: nobody can choose the beginning of its hash.
        """
        entry = self._configured.get(sha256) or self._stored.get(sha256)
        if entry is None or not hmac.compare_digest(entry.sha256, sha256):
            return None
        return entry.key if entry.until is None or self._now() < entry.until else None

    def admits(self, caller: Caller) -> bool:
        """Whether who was let in once still is: by a key that is in force, or because there is none."""
        if caller.key is None:
            return self.is_open
        now = self._now()
        return any(
            entry.key.id == caller.key
            and caller.scopes <= with_included(entry.key.scopes)
            and (entry.until is None or now < entry.until)
            for entries in (self._configured, self._stored)
            for entry in entries.values()
        )

    async def load(self) -> None:
        """Read the store's keys; they are in force when this returns. Raises what the store raises (ArenaError)."""
        async with self._reading:  # of two, the one that began last must not be overtaken
            # A store with keys in it that is gone is trouble, and not the end of all keys.
            rows = [] if not self._rows and self._records.absent else await self._records.list()
            if rows != self._rows:
                self._rows, self._stored = rows, _in_force(rows)
                self._tell()

    async def watch(self) -> None:
        """Go on reading them, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.load()
            except Exception as e:  # a defect, too, must not be the end of watching: revoked keys would stay good
                if not self._trouble:
                    stay = "nobody gets in" if self._rows is None else "those that were last read stay in force"
                    logger.error(
                        "API keys cannot be read; %s: %s", stay, e, exc_info=None if isinstance(e, ArenaError) else e
                    )
                self._trouble = str(e) or type(e).__name__
            else:
                if self._trouble:
                    logger.info("API keys can be read again")
                self._trouble = ""

    def _tell(self) -> None:
        self._had_keys = self._had_keys or bool(self._rows or self._configured)
        if self.is_open and not self._was_open:
            logger.info("There is no API key (arena-server keys create): whoever reaches the port may do everything")
        elif self._was_open and not self.is_open:
            logger.info("There is an API key now: nobody gets in without one")
        self._was_open = self.is_open


def _of_config(config: Config, environ: Mapping[str, str]) -> dict[str, _Entry]:
    """By the SHA-256 of their texts. Raises ConfigError, with a line for each fault."""
    found, faults = config_keys(config.access.keys, environ)
    if faults:
        raise ConfigError(f"{config.file}: {fault}" for fault in faults)
    return {sha256: _Entry(key, sha256, None) for sha256, key in found.items()}


def _in_force(rows: Sequence[KeyRecord]) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for row in rows:
        if row.revoked_at is not None:
            continue
        try:
            key = key_of_record(row)
        except ValueError as e:  # of a later version, or edited by hand
            logger.error("The API key %s (%s) cannot be used: %s", row.id, row.name, e)
            continue
        entries[row.sha256] = _Entry(key, row.sha256, row.expires_at)
        if row.previous_sha256 is not None and row.previous_until is not None:
            until = min(row.previous_until, row.expires_at or row.previous_until)
            entries.setdefault(row.previous_sha256, _Entry(key, row.previous_sha256, until))
    return entries
