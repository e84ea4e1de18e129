"""The store as the daemon sees it: asynchronous, and with everything that takes time in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from arena_server.store.errors import StoreUnavailable
from arena_server.store.records import BattleRecord, Vote, VoteCount

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from arena_server.store.database import Database

T = TypeVar("T")

# A person waits for a vote to be taken.
TIMEOUT_S = 10.0


class Store:
    """Battles and votes in a database. Every call may raise StoreUnavailable; a later one then tries anew.

    Calls are done one after the other in one thread, which alone imports SQLAlchemy (0.5 s).
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """`url` is an SQLAlchemy URL of SQLite or PostgreSQL. Does nothing yet."""
        self._url = url
        self._timeout_s = timeout_s
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="store")
        # The worker's own:
        self._database: Database | None = None
        self._troubles = 0
        self._last_trouble = ""

    async def open(self) -> None:
        """Make the database if there is none, and bring its schema up to date.

        A call that comes without it, or after it failed, does it too.
        """
        await self._call(lambda database: database.open())

    async def record(self, battle: BattleRecord) -> None:
        """Keep the battle as far as it has come. To be called as often as it goes on."""

        def record(connection: Connection) -> None:
            from arena_server.store.battles import save_battle

            save_battle(connection, battle)

        await self._transact(record, write=True)

    async def vote(self, battle: BattleRecord, vote: Vote, at: datetime) -> None:
        """Keep the battle and its vote. Once this returns, the vote survives the end of the process and of the host.

        Raises AlreadyVoted. If it raises StoreUnavailable or is cancelled, the vote may have been kept nevertheless:
        another try then raises AlreadyVoted with that vote.
        """

        def cast(connection: Connection) -> None:
            from arena_server.store.battles import save_vote

            save_vote(connection, battle, vote, at)

        await self._transact(cast, write=True)

    async def tallies(self) -> list[VoteCount]:
        """All votes, counted by pair (sides as they were), vote and probability."""

        def tally(connection: Connection) -> list[VoteCount]:
            from arena_server.store.battles import tally_votes

            return tally_votes(connection)

        return await self._transact(tally, write=False)

    async def votes(self) -> int:
        """How many votes there are."""

        def count(connection: Connection) -> int:
            from arena_server.store.battles import count_votes

            return count_votes(connection)

        return await self._transact(count, write=False)

    async def close(self) -> None:
        """Finish what was asked for, and end the thread and its connections; calls fail from then on."""
        try:
            closed = self._worker.submit(self._close)
        except RuntimeError:
            return  # closed before
        self._worker.shutdown(wait=False)
        await asyncio.wrap_future(closed)

    async def _transact(self, work: Callable[[Connection], T], *, write: bool) -> T:
        def transact(database: Database) -> T:
            with database.transaction(write=write) as connection:
                return work(connection)

        return await self._call(transact)

    async def _call(self, work: Callable[[Database], T]) -> T:
        troubles = self._troubles

        def call() -> T:
            # Else all that queued up behind a database that hangs would wait for it, each for the whole time limit.
            if self._troubles != troubles:
                raise StoreUnavailable(self._last_trouble)
            try:
                return work(self._opened())
            except StoreUnavailable as e:
                self._troubles += 1
                self._last_trouble = e.message
                raise

        try:
            future = self._worker.submit(call)
        except RuntimeError:
            raise StoreUnavailable("The votes database is closed: the daemon is stopping.") from None
        return await asyncio.wrap_future(future)

    def _opened(self) -> Database:
        if self._database is None:
            from arena_server.store.database import Database

            self._database = Database(self._url, self._timeout_s)
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
