"""What the store does in trouble and in company, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from arena_server.store.errors import StoreUnavailable
from arena_server.store.export import export_rows
from arena_server.store.records import Vote
from arena_server.store.schema import votes
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from tests.store.conftest import Home, locked_by_another, rows
from tests.store.samples import NOON, battle


async def test_a_database_that_goes_and_comes_back(store: Store, home: Home) -> None:
    await store.vote(battle("before"), Vote.A, NOON)
    home.take_away()
    try:
        for call in (store.vote(battle("lost"), Vote.A, NOON), store.record(battle("lost")), store.tallies()):
            with pytest.raises(StoreUnavailable, match=r"(?s)^The database .* cannot be used: .*\. \w.*") as gone:
                await call
            assert (gone.value.status, gone.value.code) == (503, "store_unavailable")
            assert gone.value.retry_after_s is not None
            assert gone.value.__cause__ is not None
    finally:
        home.bring_back()
    await store.vote(battle("after"), Vote.B, NOON)
    assert [row["battle_id"] for row in rows(home.url, votes)] == ["after", "before"]


async def test_a_restart_of_the_database_between_two_calls_is_not_noticed(store: Store, home: Home) -> None:
    await store.vote(battle("before"), Vote.A, NOON)
    home.take_away()
    home.bring_back()
    await store.vote(battle("after"), Vote.A, NOON)
    assert await store.votes() == 2


async def test_a_store_that_could_not_be_opened_works_once_it_can(home: Home) -> None:
    store = Store(home.url)
    home.take_away()
    try:
        with pytest.raises(StoreUnavailable):
            await store.open()
    finally:
        home.bring_back()
    await store.vote(battle(), Vote.A, NOON)
    assert await store.votes() == 1
    await store.close()


async def test_a_call_that_has_to_wait_does_not_hold_up_the_event_loop(store: Store, home: Home) -> None:
    await store.record(battle("b1"))
    with locked_by_another(home.url):
        vote = asyncio.ensure_future(store.vote(battle("b1"), Vote.A, NOON))
        done, _ = await asyncio.wait([vote], timeout=0.2)
        assert not done
    await vote


async def test_what_waits_behind_a_database_that_hangs_fails_with_it(home: Home) -> None:
    """Else a hundred calls would take a hundred times the time limit, and so would the daemon's end."""
    store = Store(home.url, timeout_s=0.5)
    await store.record(battle("b1"))
    with locked_by_another(home.url):
        start = time.perf_counter()
        calls = [store.vote(battle("b1"), Vote.A, NOON) for _ in range(20)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, StoreUnavailable) for result in results)
        assert time.perf_counter() - start < 5, "20 times 0.5 s would be 10 s"
    await store.vote(battle("b1"), Vote.A, NOON)
    await store.close()


async def test_one_who_leaves_does_not_spoil_the_vote(store: Store, home: Home) -> None:
    """A client's request is cancelled when it leaves; what had begun is finished, and told to who asks again."""
    await store.record(battle("b1"))
    with locked_by_another(home.url):
        vote = asyncio.ensure_future(store.vote(battle("b1"), Vote.A, NOON))
        await asyncio.wait([vote], timeout=0.2)
        vote.cancel()
        with pytest.raises(asyncio.CancelledError):
            await vote
    assert await store.votes() == 1


async def test_calls_after_the_end_are_refused_and_those_before_are_done(store: Store, home: Home) -> None:
    votes_cast = [asyncio.ensure_future(store.vote(battle(f"b{n}"), Vote.A, NOON)) for n in range(5)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*votes_cast)
    assert len(rows(home.url, votes)) == 5
    with pytest.raises(StoreUnavailable, match=r"^The database is closed: the daemon is stopping"):
        await store.votes()
    await store.close()


def test_daemons_may_begin_with_an_empty_database_at_once(home: Home) -> None:
    command = [sys.executable, "-m", "tests.store.beginner", home.url]
    with contextlib.ExitStack() as ended:
        beginners = [
            ended.enter_context(
                subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for name in ("b1", "b2", "b3")
        ]
        streams = [(beginner.stdin, beginner.stdout) for beginner in beginners]
        said = [out.readline() for _, out in streams if out]
        for into, _ in streams:
            if into:
                into.write("go\n")
                into.flush()
        said += [out.readline() for _, out in streams if out]
    assert said == ["ready\n"] * 3 + ["voted\n"] * 3
    assert [row["battle_id"] for row in rows(home.url, votes)] == ["b1", "b2", "b3"]


async def test_two_databases_may_be_begun_in_one_process_at_once(tmp_path: Path) -> None:
    stores = [Store(sqlite_url(tmp_path / f"{n}.sqlite")) for n in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    for store in stores:
        await store.vote(battle(), Vote.A, NOON)
        await store.close()


async def test_the_export_may_be_read_while_votes_come_in(store: Store, home: Home) -> None:
    for n in range(120):  # more than a batch
        await store.vote(battle(f"b{n:03}"), Vote.A, NOON + timedelta(seconds=n))
    exported = export_rows(home.url)
    seen = [next(exported)["question_id"]]
    await store.vote(battle("late"), Vote.B, NOON + timedelta(days=1))
    seen += [row["question_id"] for row in exported]
    assert [id for id in seen if id != "late"] == [f"b{n:03}" for n in range(120)]
