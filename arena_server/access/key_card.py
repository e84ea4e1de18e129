"""What is shown of an API key: all but its text and its hash. The same in `/admin/keys` and on the command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the console imports this, and not pydantic
    from arena_server.config_access import KeyConfig
    from arena_server.store.key_record import KeyRecord

CONFIG_PREFIX = "config:"  # of the ids of the configuration's keys
ACTIVE, EXPIRED, REVOKED = "active", "expired", "revoked"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """A key's own limits; None: as much as one likes."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class KeyCard:
    """One key. Times are ISO 8601, in UTC. `source` is `store` or `configuration`, `state` one of those above.

    `models` None: all; `limits` None: those of `access.key_limits`. `previous_until` is when the text before the last
    rotation ends, while it is still good.
    """

    id: str
    name: str
    source: str
    state: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None
    limits: KeyLimits | None
    created_at: str | None
    expires_at: str | None
    revoked_at: str | None
    previous_until: str | None

    @property
    def administers(self) -> bool:
        """Whether it is in force, and good for everything."""
        return self.state == ACTIVE and "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """What is told of a key once: its text. `first`: there was none before it, and so nobody had to show one.

    `unknown_models` are those of its list that no model is called now.
    """

    key: str
    first: bool
    unknown_models: tuple[str, ...]


def card_of_record(record: KeyRecord, now: datetime) -> KeyCard:
    """A key of the store, as it is at that time."""
    state = ACTIVE
    if record.expires_at is not None and record.expires_at <= now:
        state = EXPIRED
    if record.revoked_at is not None:
        state = REVOKED
    previous = record.previous_until if record.previous_sha256 is not None else None
    return KeyCard(
        id=record.id,
        name=record.name,
        source="store",
        state=state,
        scopes=_texts(record.scopes),
        models=None if record.models is None else _texts(record.models),
        limits=_limits(record.limits),
        created_at=_told(record.created_at),
        expires_at=_told(record.expires_at),
        revoked_at=_told(record.revoked_at),
        previous_until=_told(previous) if previous is not None and state == ACTIVE and now < previous else None,
    )


def card_of_config(name: str, config: KeyConfig) -> KeyCard:
    """A key of the configuration."""
    return KeyCard(
        id=f"{CONFIG_PREFIX}{name}",
        name=name,
        source="configuration",
        state=ACTIVE,
        scopes=tuple(config.scopes),
        models=config.models,
        limits=None if config.limits is None else _limits(config.limits.model_dump()),
        created_at=None,
        expires_at=None,
        revoked_at=None,
        previous_until=None,
    )


def _texts(kept: object) -> tuple[str, ...]:
    """What the database has may have been edited by hand; the list of keys is where that is to be seen."""
    return tuple(map(str, kept)) if isinstance(kept, list | tuple) else ()


def _limits(kept: object) -> KeyLimits | None:
    if not isinstance(kept, dict):
        return None
    return KeyLimits(**{field.name: kept.get(field.name) for field in fields(KeyLimits)})


def _told(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
