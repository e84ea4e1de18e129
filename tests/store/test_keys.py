"""The table of keys: what is put in comes out, and every change is seen."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from arena_server.store.database import Database
from arena_server.store.errors import StoreUnavailable
from arena_server.store.key_record import KeyRecord
from arena_server.store.key_store import KeyStore
from arena_server.store.keys import add_key, change_key
from arena_server.store.store import Store
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
