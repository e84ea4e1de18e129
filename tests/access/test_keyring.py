"""Which keys are good, and when; and what holds while the store cannot be read."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from arena_server.access import keyring as keyring_module
from arena_server.access.key import PREFIX, Key, new_id, new_token, sha256_of
from arena_server.access.keyring import Keyring
from arena_server.caller import ALL_SCOPES, Caller, Scope
from arena_server.config_access import LimitsConfig
from arena_server.errors import ConfigError
from arena_server.store.database import Database
from arena_server.store.errors import StoreUnavailable
from arena_server.store.key_record import KeyRecord
from arena_server.store.key_store import KeyStore
from arena_server.store.keys import add_key, change_key
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from tests.support.daemon_app import MODELS, config_of
from tests.support.gate import LIMIT_S, until

START = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Records:
    """A store's keys, as the test has them."""

    def __init__(self, *rows: KeyRecord, absent: bool = False) -> None:
        self.rows: Sequence[KeyRecord] = rows
        self.absent = absent
        self.trouble = False
        self.read = 0

    async def list(self) -> list[KeyRecord]:
        self.read += 1
        if self.trouble:
            raise StoreUnavailable("The database is away.")
        return list(self.rows)


class Wall:
    """A time of day that the test sets."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time


def record(token: str = "a-token", **rest: Any) -> KeyRecord:
    about: dict[str, Any] = {
        "id": "0123456789ab",
        "name": "ci",
        "scopes": ["inference"],
        "models": None,
        "limits": None,
    }
    return KeyRecord(**{**about, "sha256": sha256_of(token), "created_at": START, **rest})


def keyring(records: Records, wall: Wall | None = None, **rest: Any) -> Keyring:
    access, environ = rest.pop("access", {}), rest.pop("environ", {})
    return Keyring(records, config_of(MODELS, access=access), environ=environ, now=wall or Wall(), **rest)


async def loaded(*rows: KeyRecord, wall: Wall | None = None, **rest: Any) -> Keyring:
    ring = keyring(Records(*rows), wall, **rest)
    await ring.load()
    return ring


def test_a_new_key_is_long_and_says_what_it_is_for() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith(PREFIX) and len(token) == len(PREFIX) + 43 for token in tokens)
    assert all(len(new_id()) == 12 and int(new_id(), 16) >= 0 for _ in range(100))


async def test_a_key_of_the_store_is_good_with_all_that_is_kept_of_it() -> None:
    row = record(models=["alpha"], limits={"tokens_per_day": 5}, scopes=["inference", "arena"])
    ring = await loaded(row)
    scopes = frozenset({Scope.INFERENCE, Scope.ARENA})
    key = Key("0123456789ab", "ci", scopes, frozenset({"alpha"}), LimitsConfig(tokens_per_day=5))
    assert ring.verify(sha256_of("a-token")) == key
    assert key.caller("1.2.3.4").scopes == scopes


@pytest.mark.parametrize("token", ["", "a-toke", "a-token ", "A-TOKEN", "x" * 100_000, "\udcff", sha256_of("a-token")])
async def test_any_other_text_is_no_key(token: str) -> None:
    ring = await loaded(record())
    assert ring.verify(sha256_of(token)) is None


async def test_the_administrator_may_do_all() -> None:
    key = (await loaded(record(scopes=["admin"]))).verify(sha256_of("a-token"))
    assert key is not None
    assert key.caller("").scopes == ALL_SCOPES


async def test_a_key_ends_at_its_time() -> None:
    wall = Wall()
    ring = await loaded(record(expires_at=START + timedelta(hours=1)), wall=wall)
    wall.time = START + timedelta(minutes=59, seconds=59)
    assert ring.verify(sha256_of("a-token")) is not None
    wall.time = START + timedelta(hours=1)
    assert ring.verify(sha256_of("a-token")) is None


async def test_a_revoked_key_is_none() -> None:
    ring = await loaded(record(revoked_at=START, previous_sha256=sha256_of("old"), previous_until=datetime.max))
    assert ring.verify(sha256_of("a-token")) is None
    assert ring.verify(sha256_of("old")) is None


@pytest.mark.parametrize(
    ("expires", "good_until"), [(None, 60), (START + timedelta(minutes=90), 60), (START + timedelta(minutes=30), 30)]
)
async def test_a_rotated_key_is_good_in_both_forms_for_a_while(expires: datetime | None, good_until: int) -> None:
    wall = Wall()
    until_ = START + timedelta(hours=1)
    row = record("new", expires_at=expires, previous_sha256=sha256_of("old"), previous_until=until_)
    ring = await loaded(row, wall=wall)
    assert ring.verify(sha256_of("old")) == ring.verify(sha256_of("new")) != None  # noqa: E711
    wall.time = START + timedelta(minutes=good_until)
    assert ring.verify(sha256_of("old")) is None


async def test_a_key_that_makes_no_sense_is_no_key_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    senseless: list[Mapping[str, Any]] = [
        {"scopes": ["king"]},
        {"scopes": "admin"},
        {"scopes": None},
        {"models": "alpha"},
        {"models": [1]},
        {"limits": {"tokens_per_day": "many"}},
        {"limits": {"tokens_per_year": 5}},
        {"limits": [1]},
    ]
    rows = [record(f"bad-{i}", id=f"bad-{i}", **fields) for i, fields in enumerate(senseless)]
    ring = await loaded(*rows, record(), may_be_open=True)
    assert [ring.verify(sha256_of(f"bad-{i}")) for i in range(len(rows))] == [None] * len(rows)
    assert ring.verify(sha256_of("a-token")) is not None
    assert not ring.is_open
    for i in range(len(rows)):
        assert f"The API key bad-{i} (ci) cannot be used" in caplog.text


# The configuration's keys


async def test_keys_of_the_configuration_come_from_the_environment_or_as_hashes() -> None:
    token = new_token()
    keys = {
        "boss": {"key_env": "BOSS_KEY", "scopes": ["admin"]},
        "ci": {"sha256": sha256_of("something"), "models": ["beta"], "limits": {"requests_per_minute": 1}},
    }
    ring = keyring(Records(), access={"keys": keys}, environ={"BOSS_KEY": token})
    boss, ci = ring.verify(sha256_of(token)), ring.verify(sha256_of("something"))
    assert boss is not None
    assert ci is not None
    assert boss == Key("config:boss", "boss", frozenset({Scope.ADMIN}))
    assert (ci.id, ci.scopes, ci.models) == ("config:ci", frozenset({Scope.INFERENCE}), frozenset({"beta"}))
    assert ci.limits == LimitsConfig(requests_per_minute=1)


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({}, "access.keys.b.key_env: the environment variable B is not set"),
        ({"B": "short"}, "access.keys.b.key_env: the environment variable B has fewer than 20 characters"),
        ({"B": "x" * 20}, "access.keys.b: is the same key as `a` (give each its own)"),
    ],
)
def test_a_key_that_is_not_to_be_had_is_a_fault_of_the_configuration(environ: dict[str, str], fault: str) -> None:
    keys = {"a": {"sha256": sha256_of("x" * 20)}, "b": {"key_env": "B"}}
    with pytest.raises(ConfigError) as raised:
        keyring(Records(), access={"keys": keys}, environ=environ)
    assert raised.value.lines == [f"configuration: {fault}"]


async def test_a_new_configuration_has_other_keys() -> None:
    def config(**keys: Any) -> Any:
        return config_of(MODELS, access={"keys": keys})

    ring = keyring(Records(), access={"keys": {"a": {"sha256": sha256_of("a")}}})
    ring.configure(config(b={"sha256": sha256_of("b")}))
    assert (ring.verify(sha256_of("a")), ring.verify(sha256_of("b")) is not None) == (None, True)
    with pytest.raises(ConfigError):
        ring.configure(config(c={"key_env": "C"}))
    assert ring.verify(sha256_of("b")) is not None


# Open or not


@pytest.mark.parametrize("may_be_open", [True, False])
@pytest.mark.parametrize("rows", [[], [record()], [record(revoked_at=START)], [record(expires_at=START)]])
@pytest.mark.parametrize("configured", [True, False])
async def test_it_is_open_only_where_no_key_was_ever_made(
    may_be_open: bool, rows: list[KeyRecord], configured: bool
) -> None:
    keys = {"keys": {"a": {"sha256": sha256_of("a")}}} if configured else {}
    ring = keyring(Records(*rows), access=keys, may_be_open=may_be_open)
    assert not ring.is_open  # nobody knows yet
    await ring.load()
    assert ring.is_open is (may_be_open and not rows and not configured)


async def test_the_first_key_closes_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    records = Records(absent=True)
    ring = keyring(records, may_be_open=True)
    await ring.load()
    assert ring.is_open
    assert caplog.messages == [
        "There is no API key (arena-server keys create): whoever reaches the port may do everything"
    ]
    records.absent, records.rows = False, [record()]
    await ring.load()
    await ring.load()
    assert not ring.is_open
    assert caplog.messages[1:] == ["There is an API key now: nobody gets in without one"]


# Trouble


async def test_what_was_read_last_stays_in_force(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(keyring_module, "LOOK_EVERY_S", 0.001)
    records = Records(record())
    ring = keyring(records)
    await ring.load()
    watching = asyncio.create_task(ring.watch())
    try:
        records.trouble = True
        seen = records.read
        await until(lambda: records.read > seen + 2, "it to be tried again")
        assert ring.verify(sha256_of("a-token")) is not None
        assert caplog.text.count("API keys cannot be read; those that were last read stay in force") == 1
        records.trouble, records.rows = False, [record("another")]
        await until(lambda: ring.verify(sha256_of("another")), "the keys to be read again")
        assert ring.verify(sha256_of("a-token")) is None
    finally:
        watching.cancel()


async def test_a_store_that_is_gone_is_trouble_and_no_end_of_all_keys() -> None:
    records = Records(record())
    ring = keyring(records, may_be_open=True)
    await ring.load()
    records.absent = records.trouble = True
    with pytest.raises(StoreUnavailable):
        await ring.load()
    assert ring.verify(sha256_of("a-token")) is not None
    assert not ring.is_open


async def test_before_they_were_read_there_are_none_and_the_reader_is_told_why() -> None:
    records = Records(record())
    records.trouble = True
    ring = keyring(records, may_be_open=True)
    with pytest.raises(StoreUnavailable):
        await ring.load()
    assert ring.verify(sha256_of("a-token")) is None
    assert not ring.is_open


async def test_of_two_that_read_at_once_the_later_one_wins() -> None:
    class Slow(Records):
        async def list(self) -> list[KeyRecord]:
            rows = await super().list()
            if self.read == 1:  # the first is overtaken, if it can be
                for _ in range(10):
                    await asyncio.sleep(0)
            return rows

    records = Slow(record("old"))
    ring = keyring(records)
    first = asyncio.create_task(ring.load())
    await asyncio.sleep(0)
    records.rows = [record("new")]
    await asyncio.gather(first, ring.load())
    assert (ring.verify(sha256_of("old")), ring.verify(sha256_of("new")) is not None) == (None, True)


# Over a database


async def test_a_change_by_another_process_is_in_force_within_two_seconds(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "arena.sqlite")
    store, other = Store(url), Database(url, LIMIT_S)
    ring = Keyring(KeyStore(store), config_of(MODELS), may_be_open=True)
    watching = asyncio.create_task(ring.watch())
    try:
        await ring.load()
        assert ring.is_open

        def write(work: Any) -> None:
            with other.transaction(write=True) as connection:
                work(connection)

        row = record(
            scopes=["arena"], models=["a"], limits={"tokens_per_day": 5}, expires_at=datetime.max.replace(tzinfo=UTC)
        )
        await asyncio.to_thread(write, lambda c: add_key(c, row))
        began = time.monotonic()
        await until(lambda: ring.verify(sha256_of("a-token")), "the new key to be known")
        assert time.monotonic() - began < 2
        assert ring._rows == [row]
        await asyncio.to_thread(write, lambda c: change_key(c, row.id, revoked_at=START))
        began = time.monotonic()
        await until(lambda: ring.verify(sha256_of("a-token")) is None, "the key to be revoked")
        assert time.monotonic() - began < 2
        assert ring._rows == [replace(row, revoked_at=START)]
    finally:
        watching.cancel()
        await store.close()
        other.close()


def test_no_database_means_no_keys_and_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "none" / "arena.sqlite"
    script = f"""
import asyncio, sys
from arena_server.access.keyring import Keyring
from arena_server.config import Config
from arena_server.store.key_store import KeyStore
from arena_server.store.store import Store
ring = Keyring(KeyStore(Store({sqlite_url(file)!r})), Config(models={{"a": {{"model": "x/y"}}}}), may_be_open=True)
asyncio.run(ring.load())
asyncio.run(ring.load())
assert ring.is_open
assert "sqlalchemy" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not file.parent.exists()


DAMAGE = {
    "scopes": "'no JSON'",
    "limits": "'{'",
    "created_at": "'yesterday'",
    "revoked_at": "'soon'",
    "models": "'['",
}


@pytest.mark.parametrize("column", DAMAGE)
async def test_a_row_that_cannot_be_read_harms_no_other_and_hides_no_revocation(
    tmp_path: Path, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(sqlite_url(tmp_path / "arena.sqlite"))
    ring = Keyring(KeyStore(store), config_of(MODELS), may_be_open=True)
    good, bad = record(id="good"), record("bad", id="bad", name="of-a-person")
    try:
        for row in (good, bad):
            await store.transact(lambda c, row=row: add_key(c, row), write=True)  # type: ignore[misc]
        await ring.load()
        assert ring.verify(bad.sha256) is not None
        damage = f"UPDATE arena_keys SET {column} = {DAMAGE[column]} WHERE id = 'bad'"
        await store.transact(lambda c: c.exec_driver_sql(damage), write=True)
        await ring.load()
        assert (ring.verify(good.sha256) is not None, ring.verify(bad.sha256)) == (True, None)
        assert "The API key bad cannot be read" in caplog.text
        assert "of-a-person" not in caplog.text
        assert bad.sha256 not in caplog.text
        await store.transact(lambda c: change_key(c, "good", revoked_at=START), write=True)
        await ring.load()
        assert ring.verify(good.sha256) is None
        # It was made: a daemon that starts with it alone is not open.
        await store.transact(lambda c: c.exec_driver_sql("DELETE FROM arena_keys WHERE id = 'good'"), write=True)
        anew = Keyring(KeyStore(store), config_of(MODELS), may_be_open=True)
        await anew.load()
        assert not anew.is_open
    finally:
        await store.close()


async def test_a_defect_does_not_end_the_watch(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    class Defective(Records):
        async def list(self) -> list[KeyRecord]:
            rows = await super().list()
            if self.read in (2, 3):
                raise RuntimeError("a defect")
            return rows

    monkeypatch.setattr(keyring_module, "LOOK_EVERY_S", 0.001)
    records = Defective(record())
    ring = keyring(records)
    await ring.load()
    watching = asyncio.create_task(ring.watch())
    try:
        records.rows = [record(revoked_at=START)]
        await until(lambda: ring.verify(sha256_of("a-token")) is None, "the key to be revoked")
    finally:
        watching.cancel()
    assert caplog.text.count("those that were last read stay in force: a defect") == 1
    assert "Traceback" in caplog.text


async def test_keys_that_were_never_read_are_not_said_to_stay(
    caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setattr(keyring_module, "LOOK_EVERY_S", 0.001)
    records = Records()
    records.trouble = True
    watching = asyncio.create_task(keyring(records).watch())
    try:
        await until(lambda: records.read > 1, "it to be tried")
    finally:
        watching.cancel()
    assert "API keys cannot be read; nobody gets in" in caplog.text
    assert "stay in force" not in caplog.text


async def test_what_was_closed_once_stays_closed_and_says_that_a_restart_opens_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ring = await loaded(may_be_open=True, access={"keys": {"a": {"sha256": sha256_of("a")}}})
    assert not ring.is_open
    ring.configure(config_of(MODELS))
    assert not ring.is_open
    assert "until the daemon is restarted" in caplog.text
    await ring.load()
    assert not ring.is_open
    caplog.clear()
    ring.configure(config_of(MODELS))
    assert caplog.text == ""


async def test_who_was_let_in_is_admitted_as_long_as_the_key_is() -> None:
    wall = Wall()
    records = Records()
    ring = keyring(records, wall, may_be_open=True)
    await ring.load()
    anybody = Caller()
    assert ring.admits(anybody)
    records.rows = [record(scopes=["admin"], expires_at=START + timedelta(hours=1))]
    await ring.load()
    assert not ring.admits(anybody)
    key = ring.verify(sha256_of("a-token"))
    assert key is not None
    caller = key.caller("")
    assert ring.admits(caller)
    wall.time = START + timedelta(hours=1)
    assert not ring.admits(caller)
    wall.time = START
    records.rows = [record(scopes=["metrics"])]
    await ring.load()
    assert not ring.admits(caller)
