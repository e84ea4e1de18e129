"""Makes, rotates and revokes the keys in the store, for `/admin/keys` and for the command line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from arena_server.access.key import new_id, new_token, sha256_of
from arena_server.access.key_card import ACTIVE, CONFIG_PREFIX, IssuedKey, KeyCard, card_of_config, card_of_record
from arena_server.caller import Scope
from arena_server.config_access import KeyConfig
from arena_server.errors import ArenaError, BadRequest, Conflict
from arena_server.store.key_record import KeyRecord
from arena_server.store.store import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection


class KeyNotFound(ArenaError):
    """There is no key of this id."""

    status = 404
    kind = "invalid_request_error"
    code = "key_not_found"


class NoAdminKey(Conflict):
    """Keys would be asked for, and none would be good for making others."""

    code = "no_admin_key"


@dataclass(frozen=True, slots=True)
class KeyOrder:
    """What a key is to be. `force`: also if no key with the scope `admin` is there then."""

    name: str
    scopes: Sequence[Scope] = (Scope.INFERENCE,)
    models: Sequence[str] | None = None
    limits: Mapping[str, int | None] | None = None
    expires_at: datetime | None = None
    force: bool = False


class Issuer:
    """Every call may raise StoreUnavailable. What is decided and what is written is one transaction each."""

    def __init__(
        self,
        store: Store,
        configured: Callable[[], Mapping[str, KeyConfig]],
        models: Callable[[], Collection[str]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`configured` are the configuration's keys by name, `models` the names and aliases that there are."""
        self._store = store
        self._configured = configured
        self._models = models
        self._now = now

    async def cards(self) -> list[KeyCard]:
        """All keys that there are and were: the configuration's, then the store's, oldest first."""
        records = [] if self._store.absent else await self._store.transact(_all, write=False)
        return self._of_config() + [card_of_record(record, self._now()) for record in records]

    async def create(self, order: KeyOrder) -> tuple[KeyCard, IssuedKey]:
        """Make a key. Raises BadRequest if it would be over at once, and NoAdminKey."""
        token, now = new_token(), self._now()
        if order.expires_at is not None and order.expires_at <= now:
            raise BadRequest("The key would have expired before it is made.", param="expires_at")
        record = KeyRecord(
            id=new_id(),
            name=order.name,
            sha256=sha256_of(token),
            scopes=list(dict.fromkeys(map(str, order.scopes))),
            models=None if order.models is None else list(dict.fromkeys(order.models)),
            limits=order.limits,
            created_at=now,
            expires_at=order.expires_at,
        )

        def create(connection: Connection) -> bool:
            from arena_server.store.keys import add_key, list_keys

            before = self._of_config() + [card_of_record(r, now) for r in list_keys(connection)]
            card = card_of_record(record, now)
            if not order.force and not any(c.administers for c in [*before, card]):
                raise NoAdminKey(_no_admin(first=not before))
            add_key(connection, record)
            return not before

        first = await self._store.transact(create, write=True)
        known = self._models()
        unknown = tuple(name for name in record.models or () if name not in known)
        return card_of_record(record, now), IssuedKey(token, first, unknown)

    async def revoke(self, key_id: str, *, keep_admin: bool) -> KeyCard:
        """End a key at once; one that was revoked stays as it is. `keep_admin`: but not the last one with that scope.

        Raises KeyNotFound, Conflict for a key of the configuration, NoAdminKey.
        """

        def revoke(connection: Connection) -> KeyCard:
            record, others = self._found(connection, key_id)
            card = card_of_record(record, self._now())
            if keep_admin and card.administers and not any(c.administers for c in others):
                raise NoAdminKey(
                    "It is the last key with the scope `admin`: nobody could make another one over HTTP. Make one "
                    f"first, or, on the daemon's host: arena-server keys revoke {key_id} --config FILE"
                )
            if record.revoked_at is not None:
                return card
            return self._changed(connection, record, revoked_at=self._now())

        return await self._change(key_id, revoke)

    async def rotate(self, key_id: str, grace_s: float) -> tuple[KeyCard, IssuedKey]:
        """Give a key a new text; the one before is good for `grace_s` longer, any other no more.

        Raises KeyNotFound, Conflict for a key that is over, or of the configuration.
        """
        token = new_token()

        def rotate(connection: Connection) -> KeyCard:
            record, _ = self._found(connection, key_id)
            state = card_of_record(record, self._now()).state
            if state != ACTIVE:
                raise Conflict(f"The key `{record.name}` ({key_id}) is {state}: make a new one.")
            until = self._now() + timedelta(seconds=grace_s)
            previous = record.sha256
            new = sha256_of(token)
            return self._changed(connection, record, sha256=new, previous_sha256=previous, previous_until=until)

        return await self._change(key_id, rotate), IssuedKey(token, False, ())

    async def _change(self, key_id: str, change: Callable[[Connection], KeyCard]) -> KeyCard:
        if key_id.startswith(CONFIG_PREFIX) and any(c.id == key_id for c in self._of_config()):
            name = key_id.removeprefix(CONFIG_PREFIX)
            raise Conflict(f"The key `{name}` is the configuration's: change it there (`access.keys`), and reload.")
        if self._store.absent:
            raise _not_found(key_id)
        return await self._store.transact(change, write=True)

    def _found(self, connection: Connection, key_id: str) -> tuple[KeyRecord, list[KeyCard]]:
        """A key of the store, and all others."""
        records = {record.id: record for record in _all(connection)}
        record = records.pop(key_id, None)
        if record is None:
            raise _not_found(key_id)
        return record, self._of_config() + [card_of_record(r, self._now()) for r in records.values()]

    def _changed(self, connection: Connection, record: KeyRecord, **changes: Any) -> KeyCard:
        from arena_server.store.keys import change_key

        change_key(connection, record.id, **changes)
        return card_of_record(replace(record, **changes), self._now())

    def _of_config(self) -> list[KeyCard]:
        return [card_of_config(name, config) for name, config in self._configured().items()]


def _all(connection: Connection) -> list[KeyRecord]:
    from arena_server.store.keys import list_keys

    return list_keys(connection)


def _not_found(key_id: str) -> KeyNotFound:
    return KeyNotFound(f"There is no API key `{key_id[:100]}`.")


def _no_admin(*, first: bool) -> str:
    why = "It would be the first key, and from then on" if first else "No key with the scope `admin` is in force:"
    return f"{why} nobody could make or revoke keys over HTTP. Give this one the scope `admin`, or force it (`force`)."
