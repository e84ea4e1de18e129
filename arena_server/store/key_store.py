"""The keys in the store, as the daemon sees them: asynchronous."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from arena_server.store.key_record import KeyRecord
from arena_server.store.store import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection


class KeyStore:
    """Reads the table of keys. Every call may raise StoreUnavailable; a later one then tries anew."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # The store's thread's own: what was read last. It is read every second, and hardly ever changes.
        self._fingerprint: Sequence[object] | None = None
        self._records: Sequence[KeyRecord] = ()

    @property
    def absent(self) -> bool:
        """Whether the store is a file that is not there (yet): then nobody has made a key in it."""
        return self._store.absent

    async def list(self) -> Sequence[KeyRecord]:
        """All keys that were ever made, also those that are over, oldest first."""

        def read(connection: Connection) -> Sequence[KeyRecord]:
            from arena_server.store.engines import data_version
            from arena_server.store.keys import fingerprint_keys, list_keys

            version = data_version(connection)
            # Kept with the connection: another one, perhaps of another file, counts from its own beginning.
            if version is not None and connection.info.get(self) == version:
                return self._records
            fingerprint = fingerprint_keys(connection)
            if fingerprint != self._fingerprint:
                self._records, self._fingerprint = list_keys(connection), fingerprint
            connection.info[self] = version
            return self._records

        return await self._store.transact(read, write=False)
