"""The models and aliases in the store, as the daemon sees them: asynchronous."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arena_server.store.registry_record import Kind, Record, RegistryRecords
from arena_server.store.store import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection


class RegistryStore:
    """The tables of models and aliases. Every call may raise StoreUnavailable; a later one then tries anew."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self) -> RegistryRecords:
        """All of them; none if there is no database yet."""
        if self._store.absent:
            return RegistryRecords()

        def read(connection: Connection) -> RegistryRecords:
            from arena_server.store.registry import list_records

            return list_records(connection)

        return await self._store.transact(read, write=False)

    async def put(self, kind: Kind, name: str, record: Record | None) -> None:
        """Keep a model or an alias in place of what is kept under its name; None: nothing any more."""

        def keep(connection: Connection) -> None:
            from arena_server.store.registry import put

            put(connection, kind, name, record)

        await self._store.transact(keep, write=True)
