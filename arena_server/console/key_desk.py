"""Where `arena-server keys` has its orders carried out: by a daemon, or on the database itself."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

from arena_server.access.key_card import IssuedKey, KeyCard, KeyLimits
from arena_server.console.api import Api, BadAnswer
from arena_server.console.shape import WrongShape, read

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from arena_server.access.issuer import Issuer
    from arena_server.config import Config
    from arena_server.store.registry_record import RegistryRecords
    from arena_server.store.store import Store

PATH = "/admin/keys"

T = TypeVar("T")
Made = tuple[KeyCard, IssuedKey]


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a key is to be. `models` None: all; without any limit of its own it has those of all keys."""

    name: str
    scopes: Sequence[str]
    models: Sequence[str] | None
    limits: KeyLimits
    expires_at: datetime | None
    force: bool

    def body(self) -> dict[str, Any]:
        """As the daemon is asked for it."""
        limits = {name: value for name, value in asdict(self.limits).items() if value is not None}
        return {
            "name": self.name,
            "scopes": list(self.scopes),
            "models": None if self.models is None else list(self.models),
            "limits": limits or None,
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
            "force": self.force,
        }


class Desk(Protocol):
    """Carries out what is asked for, or raises ArenaError."""

    def cards(self) -> Sequence[KeyCard]:
        """All keys."""
        ...

    def create(self, new: NewKey) -> Made:
        """Make a key."""
        ...

    def revoke(self, key_id: str) -> KeyCard:
        """End a key."""
        ...

    def rotate(self, key_id: str, grace_s: float) -> Made:
        """Give a key a new text."""
        ...


@dataclass(frozen=True, slots=True)
class _Keys:
    keys: tuple[KeyCard, ...]


class DaemonDesk:
    """A running daemon, over HTTP."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def cards(self) -> Sequence[KeyCard]:
        """See `Desk`."""
        return self._read(_Keys, self._api.ask("GET", PATH)[1]).keys

    def create(self, new: NewKey) -> Made:
        """See `Desk`."""
        return self._made(self._api.ask("POST", PATH, new.body())[1])

    def revoke(self, key_id: str) -> KeyCard:
        """See `Desk`."""
        return self._read(KeyCard, self._api.ask("DELETE", f"{PATH}/{quote(key_id, safe='')}")[1])

    def rotate(self, key_id: str, grace_s: float) -> Made:
        """See `Desk`."""
        return self._made(self._api.ask("POST", f"{PATH}/{quote(key_id, safe='')}/rotate", {"grace_s": grace_s})[1])

    def _made(self, answer: object) -> Made:
        return self._read(KeyCard, answer), self._read(IssuedKey, answer)

    def _read(self, kind: type[T], answer: object) -> T:
        try:
            return read(kind, answer)
        except WrongShape as e:
            hint = "another version of arena-server?"
            raise BadAnswer(f"cannot use what {self._api.url}{PATH} answers: {e} ({hint})") from None


class StoreDesk:
    """The database that a configuration means. No daemon need run; one that does notices within two seconds."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def cards(self) -> Sequence[KeyCard]:
        """See `Desk`."""
        return self._done(lambda issuer: issuer.cards())

    def create(self, new: NewKey) -> Made:
        """See `Desk`. What is asked for is checked as the daemon checks it."""
        from arena_server.api.chat_fields import parse
        from arena_server.api.key_body import KeyBody

        order = parse(KeyBody, json.dumps(new.body()).encode()).order()
        return self._done(lambda issuer: issuer.create(order), makes=True)

    def revoke(self, key_id: str) -> KeyCard:
        """See `Desk`. Here the last key with the scope `admin` may go, too."""
        return self._done(lambda issuer: issuer.revoke(key_id, keep_admin=False))

    def rotate(self, key_id: str, grace_s: float) -> Made:
        """See `Desk`."""
        return self._done(lambda issuer: issuer.rotate(key_id, grace_s))

    def _done(self, work: Callable[[Issuer], Coroutine[Any, Any, T]], *, makes: bool = False) -> T:
        from arena_server.access.issuer import Issuer
        from arena_server.store.store import Store
        from arena_server.store.url import sqlite_file, store_url

        url = store_url(self._config.arena.database, self._config.state_dir)

        async def done() -> T:
            store = Store(url)
            try:
                if makes and store.absent and (file := sqlite_file(url)) is not None:
                    _leave_to_owner(file)
                names = await self._names(store) if makes else set[str]()
                return await work(Issuer(store, lambda: self._config.access.keys, lambda: names))
            finally:
                await store.close()

        return asyncio.run(done())

    async def _names(self, store: Store) -> set[str]:
        """What models are called: those of the configuration, and those added at run time."""

        def added(connection: Connection) -> RegistryRecords:
            from arena_server.store.registry import list_records

            return list_records(connection)

        records = await store.transact(added, write=False)
        names = {name for model in self._config.models.values() for name in model.aliases}
        names |= {name for model in records.models for name in model.settings.get("aliases", ())}
        names |= {model.name for model in records.models} | {alias.name for alias in records.aliases}
        return names | set(self._config.models) | set(self._config.aliases)


def _leave_to_owner(file: Path) -> None:
    """Make the database's file as its folder's owner would: the daemon could not write what root makes."""
    from arena_server.store.engines import make_file

    if os.geteuid() != 0 or not file.parent.exists():
        return
    owner = file.parent.stat()
    make_file(file)
    os.chown(file, owner.st_uid, owner.st_gid)
