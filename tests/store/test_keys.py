"""The table of keys: what is put in comes out, and every change is seen."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from arena_server.store.database import Database
from arena_server.store.errors import StoreUnavailable
from arena_server.store.key_record import KeyRecord
from arena_server.store.key_store import KeyStore
from arena_server.store.keys import add_key, change_key, fingerprint_keys
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from tests.store.conftest import Home
from tests.support.gate import LIMIT_S

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
PLAIN = KeyRecord("0123456789ab", "ci", "a" * 64, ["inference"], None, None, START)
LATER = START.astimezone(timezone(timedelta(hours=5))) + timedelta(seconds=1)
FULL = KeyRecord(
    "ba9876543210",
    "a \u2603",
    "b" * 64,
    ["arena", "admin"],
    ["x", "y"],
    {"tokens_per_day": 5},
    LATER,
    LATER,
    LATER,
    "c",
    LATER,
)

CHANGES: list[dict[str, Any]] = [
    {"name": "another"},
    {"sha256": "d" * 64},
    {"scopes": ["admin"]},
    {"models": ["alpha"]},
    {"limits": {"tokens_per_day": 5}},
    {"limits": {"tokens_per_day": 6}},
    {"limits": None},
    {"expires_at": START},
    {"expires_at": START + timedelta(microseconds=1)},
    {"previous_sha256": "b", "previous_until": START},
    {"revoked_at": START},
]


async def test_keys_are_kept_as_they_are_and_every_change_is_seen(home: Home) -> None:
    store, other = Store(home.url), Database(home.url, LIMIT_S)
    keys = KeyStore(store)
    row = PLAIN

    def change(**what: Any) -> bool:
        with other.transaction(write=True) as connection:
            return change_key(connection, row.id, **what)

    try:
        assert list(await keys.list()) == []
        for record in (FULL, PLAIN):
            await store.transact(lambda c, r=record: add_key(c, r), write=True)  # type: ignore[misc]
        assert list(await keys.list()) == [PLAIN, FULL]
        for what in CHANGES:
            assert await asyncio.to_thread(change, **what)
            row = replace(row, **what)
            assert list(await keys.list()) == [row, FULL]
            assert list(await keys.list()) == [row, FULL]
        row = replace(row, id="nothing")
        assert not await asyncio.to_thread(change, name="x")
    finally:
        await store.close()
        other.close()


async def test_a_look_that_finds_no_change_reads_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = sqlite_url(tmp_path / "arena.sqlite")
    store, other = Store(url), Database(url, LIMIT_S)
    keys = KeyStore(store)
    looks: list[str] = []

    def counted(connection: Any) -> Any:
        looks.append("rows")
        return fingerprint_keys(connection)

    monkeypatch.setattr("arena_server.store.keys.fingerprint_keys", counted)

    def add(record: KeyRecord) -> None:
        with other.transaction(write=True) as connection:
            add_key(connection, record)

    try:
        await store.transact(lambda c: add_key(c, PLAIN), write=True)
        for _ in range(3):
            assert list(await keys.list()) == [PLAIN]
        assert looks == ["rows"]
        await asyncio.to_thread(add, FULL)
        for _ in range(3):
            assert list(await keys.list()) == [PLAIN, FULL]
        assert looks == ["rows"] * 2
    finally:
        await store.close()
        other.close()


async def test_the_keys_of_another_file_in_its_place_are_seen(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("arena.sqlite", "next.sqlite")]
    for path, record in zip(places, (PLAIN, FULL), strict=True):
        # As many changes in both, so that their counts are the same.
        database = Database(sqlite_url(path), LIMIT_S)
        with database.transaction(write=True) as connection:
            add_key(connection, record)
        database.close()
    store = Store(sqlite_url(places[0]))
    keys = KeyStore(store)
    try:
        assert list(await keys.list()) == [PLAIN]
        places[1].replace(places[0])
        assert list(await keys.list()) == [FULL]
    finally:
        await store.close()


@pytest.mark.parametrize("twice", [{"id": "another"}, {"sha256": "d" * 64}])
async def test_no_two_keys_have_one_id_or_one_hash(home: Home, twice: dict[str, Any]) -> None:
    store = Store(home.url)
    try:
        await store.transact(lambda c: add_key(c, PLAIN), write=True)
        with pytest.raises(StoreUnavailable) as raised:
            await store.transact(lambda c: add_key(c, replace(PLAIN, **twice)), write=True)
        assert PLAIN.sha256 not in str(raised.value)
        assert list(await KeyStore(store).list()) == [PLAIN]
    finally:
        await store.close()
