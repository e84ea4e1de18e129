"""A database that hangs: it neither answers nor breaks off."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Connection

from arena_server.store.errors import StoreUnavailable
from arena_server.store.records import Vote
from arena_server.store.schema import votes
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from tests.store.conftest import rows
from tests.store.samples import NOON, battle
from tests.support.gate import until
from tests.support.postgres import PostgresServer

Patience = Callable[[float], None]


class Hanging:
    """Work in the store's thread that does not end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, _: Connection) -> str:
        self.begun.set()
        assert self.let_go.wait(60)
        return "done"


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    work = Hanging()
    yield work
    work.let_go.set()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "arena.sqlite")


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    """Sets for how long calls are waited for beyond the time limit, in seconds."""
    return lambda seconds: monkeypatch.setattr("arena_server.store.store.GRACE_S", seconds)


@pytest.fixture
async def opened(url: str, patience: Patience) -> Store:
    store = Store(url, timeout_s=1)
    patience(60)
    await store.open()
    return store


async def fails_at_once(call: Awaitable[object]) -> None:
    """Of the minute that it could be waited for, next to nothing is used."""
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await asyncio.wait_for(call, 10)


async def test_one_that_hangs_is_not_waited_for_and_not_again(
    opened: Store, url: str, hanging: Hanging, patience: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    patience(-0.8)
    with pytest.raises(StoreUnavailable, match=r"^The database does not answer\.") as late:
        await opened.transact(hanging, write=False)
    assert late.value.status == 503
    patience(60)
    for _ in range(20):
        await fails_at_once(opened.vote(battle("lost"), Vote.A, NOON))
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == [
        "The database has not answered for 0.2 s. Calls fail until it does."
    ]
    hanging.let_go.set()
    await until(lambda: "has ended" in caplog.text, "the call to end")
    await opened.vote(battle("after"), Vote.B, NOON)
    await opened.close()
    assert [row["battle_id"] for row in rows(url, votes)] == ["after"], "nothing that was refused is done later"


async def test_one_that_hangs_for_somebody_who_left_is_noticed(
    opened: Store, hanging: Hanging, patience: Patience
) -> None:
    left = asyncio.ensure_future(opened.transact(hanging, write=False))
    await until(hanging.begun.is_set, "the call to begin")
    left.cancel()
    patience(-0.8)
    with pytest.raises(StoreUnavailable):
        await opened.votes()
    patience(60)
    await fails_at_once(opened.votes())
    hanging.let_go.set()
    await opened.close()


async def test_the_end_does_not_wait_for_it(opened: Store, hanging: Hanging, patience: Patience) -> None:
    patience(-0.8)
    with pytest.raises(StoreUnavailable):
        await opened.transact(hanging, write=False)
    patience(60)
    await asyncio.wait_for(opened.close(), 10)
    thread = opened._worker._thread
    assert thread.daemon, "else the interpreter would wait for it"
    hanging.let_go.set()
    thread.join(5)
    assert not thread.is_alive()
    opened._close()  # what it was not waited for


async def test_a_defect_is_raised_as_it_is_and_logged(opened: Store, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(_: Connection) -> None:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        await opened.transact(wrong, write=False)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert await opened.votes() == 0
    await opened.close()


async def test_a_stopped_postgresql(server: PostgresServer, patience: Patience) -> None:
    patience(60)
    store = Store(server.new_database(), timeout_s=1)
    await store.vote(battle("before"), Vote.A, NOON)
    patience(-0.5)
    assert server._process is not None
    postmaster = psutil.Process(server._process.pid)
    stopped = [postmaster, *postmaster.children(recursive=True)]
    for process in stopped:
        process.suspend()
    try:
        with pytest.raises(StoreUnavailable):
            await store.votes()
        patience(60)
        for _ in range(5):
            await fails_at_once(store.votes())
    finally:
        for process in stopped:
            process.resume()
    assert store._hung is not None
    await until(store._hung.done, "the call that hung to end")
    assert await store.votes() == 1
    await store.close()
