"""Usage in the database, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

import pytest

from arena_server.store.errors import StoreUnavailable
from arena_server.store.key_record import KeyRecord
from arena_server.store.keys import add_key
from arena_server.store.schema import usage, usage_batches
from arena_server.store.store import Store
from arena_server.store.usage_record import ANONYMOUS, By, Place, Span, Sum, Used
from arena_server.usage.ledger import Ledger
from tests.store.conftest import Home, rows
from tests.store.samples import NOON

DAY = date(2026, 11, 21)
ONE = Used(1, 10, 5, 0.5, 1_000_001)
MOST = (1 << 63) - 1
UNIT = 10**12


def place(key: str = "k1", model: str = "alpha", day: date = DAY) -> Place:
    return Place(day, key, model)


async def test_batches_are_added_up(store: Store) -> None:
    ledger = Ledger(store)
    await ledger.add(1, NOON, {place(): ONE, place("k2"): ONE})
    await ledger.add(2, NOON, {place(): Used(0, 0, 7, 0.25, 9), place(model="beta"): ONE})
    await ledger.add(3, NOON, {place(): Used(0, 0, -2, 0, -1)})
    assert await ledger.sums(By.KEY, Span()) == [
        Sum("k1", None, Used(2, 20, 15, 1.25, 2_000_010)),
        Sum("k2", None, ONE),
    ]
    assert await ledger.sums(By.MODEL, Span(key_id="k1")) == [
        Sum("alpha", None, Used(1, 10, 10, 0.75, 1_000_009)),
        Sum("beta", None, ONE),
    ]


async def test_a_batch_that_is_given_again_is_not_added_again(store: Store, home: Home) -> None:
    """Its commit may have been made although its acknowledgement was lost."""
    first, second = Ledger(store), Ledger(store)
    for ledger in (first, first, second, first):
        await ledger.add(1, NOON, {place(): ONE})
    await first.add(2, NOON, {place(): ONE})
    await first.add(2, NOON, {place(): ONE})
    (row,) = rows(home.url, usage)
    assert row["requests"] == 3
    assert sorted(r["number"] for r in rows(home.url, usage_batches)) == [1, 2]


async def test_writers_of_long_ago_are_forgotten(store: Store, home: Home) -> None:
    await Ledger(store).add(1, NOON, {place(): ONE})
    await Ledger(store).add(1, NOON + timedelta(days=8), {place(): ONE})
    assert len(rows(home.url, usage_batches)) == 1


async def test_what_a_day_a_key_and_a_model_used(store: Store) -> None:
    ledger, next_day = Ledger(store), DAY + timedelta(days=1)
    big = Used(1, 100, 100, 1.0, 5)
    await ledger.add(
        1,
        NOON,
        {
            place(): ONE,
            place(day=next_day): ONE,
            place("config:ci", "beta", next_day): big,
            place(ANONYMOUS, "beta", next_day + timedelta(days=1)): ONE,
        },
    )
    assert [s.of for s in await ledger.sums(By.DAY, Span())] == ["2026-11-21", "2026-11-22", "2026-11-23"]
    assert [s.of for s in await ledger.sums(By.KEY, Span())] == ["config:ci", "k1", ANONYMOUS], "the most tokens first"
    assert [s.of for s in await ledger.sums(By.MODEL, Span())] == ["beta", "alpha"]
    assert [s.of for s in await ledger.sums(By.DAY, Span(since=next_day))] == ["2026-11-22", "2026-11-23"]
    assert [s.of for s in await ledger.sums(By.DAY, Span(until=next_day))] == ["2026-11-21", "2026-11-22"]
    assert await ledger.sums(By.KEY, Span(since=next_day, until=next_day, model="beta")) == [
        Sum("config:ci", None, big)
    ]
    assert await ledger.sums(By.KEY, Span(model="gamma")) == []
    assert await ledger.tokens_of_day(next_day) == {"k1": 15, "config:ci": 200}
    assert await ledger.tokens_of_day(date(2020, 1, 1)) == {}


async def test_a_key_of_the_store_has_its_name_and_counts_once(store: Store) -> None:
    record = KeyRecord("k1", "Alice", "0" * 64, ["inference"], None, None, NOON)
    await store.transact(lambda connection: add_key(connection, record), write=True)
    ledger = Ledger(store)
    await ledger.add(1, NOON, {place(): ONE, place(model="beta"): ONE, place("k2"): ONE})
    assert await ledger.sums(By.KEY, Span()) == [
        Sum("k1", "Alice", Used(2, 20, 10, 1.0, 2_000_002)),
        Sum("k2", None, ONE),
    ]
    assert [s.name for s in await ledger.sums(By.MODEL, Span())] == [None, None]


async def test_sums_that_are_too_large_stay_at_the_largest(store: Store) -> None:
    """Else the database would refuse the batch, and with it what all others used, for ever."""
    ledger = Ledger(store)
    for number in (1, 2, 3):
        await ledger.add(number, NOON, {place(): Used(MOST - 5 if number < 3 else 2 * MOST, 1, 1, 1.0, MOST * UNIT)})
    await ledger.add(4, NOON, {place(): Used(-7, 0, 0, 0.0, -7 * UNIT)})
    assert await ledger.sums(By.KEY, Span()) == [Sum("k1", None, Used(MOST - 7, 3, 3, 3.0, (MOST - 7) * UNIT))]


async def test_costs_are_exact_however_large(store: Store) -> None:
    """Of a currency with small units, and over rows whose sum a database could not hold as one number."""
    ledger, cost = Ledger(store), 12_500_000 * UNIT + 999_999_999_999
    for number in range(1, 4):
        await ledger.add(number, NOON, {place(f"k{n}"): Used(cost_pico=cost) for n in range(3)})
    await ledger.add(4, NOON, {place("k0"): Used(cost_pico=-1), place("k9"): Used(cost_pico=MOST * UNIT)})
    assert [s.used.cost_pico for s in await ledger.sums(By.KEY, Span())] == [3 * cost - 1, *[3 * cost] * 2, MOST * UNIT]
    (both,) = await ledger.sums(By.DAY, Span())
    assert both.used.cost_pico == 9 * cost - 1 + MOST * UNIT


async def test_two_daemons_may_add_to_the_same_at_once(home: Home) -> None:
    stores = [Store(home.url), Store(home.url)]
    places = [place(f"k{n}") for n in range(20)]

    async def add_all(store: Store, order: list[Place]) -> None:
        ledger = Ledger(store)
        for number in range(1, 11):
            await ledger.add(number, NOON, dict.fromkeys(order, ONE))

    await stores[0].open()
    await asyncio.gather(add_all(stores[0], places), add_all(stores[1], places[::-1]))
    (day,) = await Ledger(stores[0]).sums(By.DAY, Span())
    assert day.used.requests == 400
    for each in stores:
        await each.close()


async def test_the_database_is_gone(store: Store, home: Home) -> None:
    ledger = Ledger(store)
    await ledger.add(1, NOON, {place(): ONE})
    home.take_away()
    try:
        with pytest.raises(StoreUnavailable):
            await ledger.add(2, NOON, {place(): ONE})
    finally:
        home.bring_back()
    await ledger.add(2, NOON, {place(): ONE})
    assert (await ledger.sums(By.DAY, Span()))[0].used.requests == 2
