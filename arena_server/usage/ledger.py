"""Usage in the store, for the event loop."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING

from arena_server.store.store import Store
from arena_server.store.usage_record import By, Place, Span, Sum, Used

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Ledger:
    """One writer's way to the table. Every call may raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writer = uuid.uuid4().hex  # another in each life of the daemon

    async def add(self, number: int, now: datetime, batch: Mapping[Place, Used]) -> None:
        """Add what was used. The first batch is number 1, the next 2, and so on.

        If it raises, or is cancelled, the batch may have been added nevertheless: the same one may be given again, and
        is not added twice.
        """

        def add(connection: Connection) -> None:
            from arena_server.store.usage import add_usage

            add_usage(connection, self._writer, number, now, batch)

        await self._store.transact(add, write=True)

    async def sums(self, by: By, span: Span) -> list[Sum]:
        """What was used, by key, model or day."""

        def read(connection: Connection) -> list[Sum]:
            from arena_server.store.usage import sums

            return sums(connection, by, span)

        return await self._store.transact(read, write=False)

    async def tokens_of_day(self, day: date) -> dict[str, int]:
        """All tokens that were used on that day (UTC), by the key's id."""

        def read(connection: Connection) -> dict[str, int]:
            from arena_server.store.usage import tokens_of_day

            return tokens_of_day(connection, day)

        return await self._store.transact(read, write=False)
