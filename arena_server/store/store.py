"""The store as the daemon sees it: asynchronous, and with everything that takes time in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from arena_server.errors import ArenaError
from arena_server.store.errors import StoreUnavailable
from arena_server.store.records import BattleRecord, Vote, VoteCount
from arena_server.store.url import sqlite_file
from arena_server.store.worker import Worker

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from arena_server.store.database import Database

T = TypeVar("T")

logger = logging.getLogger(__name__)

# A person waits for a vote to be taken.
TIMEOUT_S = 10.0
# On top of it, for a call as a whole: the database itself ends what takes longer, and says why; unless it hangs.
GRACE_S = 5.0
HANGS = "The database does not answer. Calls succeed again when it does."


class Store:
    """What is kept, in a database. Every call may raise StoreUnavailable; a later one then tries anew.

    Calls are done one after the other in one thread, which alone imports SQLAlchemy (0.5 s). None is waited for longer
    than the time limit and a little more. While the thread hangs in one, all others fail at once.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """`url` is an SQLAlchemy URL of SQLite or PostgreSQL. Does nothing yet."""
        self._url = url
        self._timeout_s = timeout_s
        self._worker = Worker("store")
        self._hung: Future[Any] | None = None
        # The worker's own:
        self._database: Database | None = None
        self._troubles = 0
        self._last_trouble = ""

    @property
    def absent(self) -> bool:
        """Whether it is a file that is not there (yet). Known without SQLAlchemy, and without making it."""
        path = sqlite_file(self._url)
        return path is not None and not path.exists()

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

        await self.transact(record, write=True)

    async def vote(self, battle: BattleRecord, vote: Vote, at: datetime) -> None:
        """Keep the battle and its vote. Once this returns, the vote survives the end of the process and of the host.

        Raises AlreadyVoted. If it raises StoreUnavailable or is cancelled, the vote may have been kept nevertheless:
        another try then raises AlreadyVoted with that vote.
        """

        def cast(connection: Connection) -> None:
            from arena_server.store.battles import save_vote

            save_vote(connection, battle, vote, at)

        await self.transact(cast, write=True)

    async def tallies(self) -> list[VoteCount]:
        """All votes, counted by pair (sides as they were), vote and probability."""

        def tally(connection: Connection) -> list[VoteCount]:
            from arena_server.store.battles import tally_votes

            return tally_votes(connection)

        return await self.transact(tally, write=False)

    async def votes(self) -> int:
        """How many votes there are."""

        def count(connection: Connection) -> int:
            from arena_server.store.battles import count_votes

            return count_votes(connection)

        return await self.transact(count, write=False)

    async def close(self) -> None:
        """Finish what was asked for, and end the thread and its connections; calls fail from then on.

        A database that hangs is not waited for: what was asked of it may be lost.
        """
        try:
            closed = self._worker.submit(self._close)
        except RuntimeError:
            return  # closed before
        self._worker.close()
        try:
            self._check_hung()
            await self._finished(closed)
        except StoreUnavailable:
            logger.warning("The database hangs: it is left without an end to its connections.")

    async def transact(self, work: Callable[[Connection], T], *, write: bool) -> T:
        """Have `work` done in a transaction, in the store's thread; it imports what it needs of SQLAlchemy itself.

        If the time limit is over, it may be done nevertheless. What it raises is raised here; also logged if it is no
        ArenaError but a defect, of which nobody might hear whose caller has left.
        """

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
            except ArenaError:
                raise
            except Exception:
                logger.exception("A defect in what was asked of the database")
                raise

        self._check_hung()
        try:
            future = self._worker.submit(call)
        except RuntimeError:
            raise StoreUnavailable("The database is closed: the daemon is stopping.") from None
        return await self._finished(future)

    async def _finished(self, future: Future[T]) -> T:
        """What comes of it, within the time limit. Raises StoreUnavailable."""
        limit_s = self._timeout_s + GRACE_S
        try:
            async with asyncio.timeout(limit_s) as bound:
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if not bound.expired():
                raise
        future.cancel()  # if it has not begun, it never will
        # Whoever asked for the one that hangs may have left.
        current = self._worker.current
        if current is not None and current is not self._hung:
            self._hung = current
            logger.error("The database has not answered for %g s. Calls fail until it does.", limit_s)
            current.add_done_callback(lambda _: logger.warning("The call that hung in the database has ended."))
        raise StoreUnavailable(HANGS)

    def _check_hung(self) -> None:
        """Raises StoreUnavailable while a call hangs: what queued up behind it would be waited for in vain."""
        if self._hung is not None and not self._hung.done():
            raise StoreUnavailable(HANGS)

    def _opened(self) -> Database:
        if self._database is None:
            from arena_server.store.database import Database

            self._database = Database(self._url, self._timeout_s)
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
