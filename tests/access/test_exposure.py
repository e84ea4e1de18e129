"""Without keys a daemon is for its own machine alone, unless it is told otherwise."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from arena_server.access.exposure import check_exposure
from arena_server.access.key import sha256_of
from arena_server.config import Config
from arena_server.errors import ConfigError
from arena_server.store.database import Database
from arena_server.store.key_record import KeyRecord
from arena_server.store.keys import add_key
from arena_server.store.url import sqlite_url
from tests.support.daemon_app import MODELS, config_of
from tests.support.gate import LIMIT_S
from tests.support.keys import access


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "arena.sqlite"


def config(file: Path, **rest: Any) -> Config:
    return config_of(MODELS, arena={"database": sqlite_url(file)}, **rest)


def keep(file: Path, *records: KeyRecord) -> None:
    database = Database(sqlite_url(file), LIMIT_S)
    with database.transaction(write=True) as connection:
        for record in records:
            add_key(connection, record)
    database.close()


def record(**rest: Any) -> KeyRecord:
    return KeyRecord("0" * 12, "a", sha256_of("a"), ["admin"], None, None, datetime.now(UTC), **rest)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.8.8.8"])
def test_on_loopback_it_may_be_open(file: Path, address: str) -> None:
    assert check_exposure(config(file), address, insecure=False)
    assert not file.exists()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
@pytest.mark.parametrize("empty", [True, False], ids=["no store", "a store without keys"])
def test_wider_it_needs_a_key(file: Path, address: str, empty: bool) -> None:
    if not empty:
        keep(file)
    with pytest.raises(ConfigError) as raised:
        check_exposure(config(file), address, insecure=False)
    text = str(raised.value)
    assert f"server.host: other machines can reach {address}, and there is no API key" in text
    for way in ("arena-server keys create", "127.0.0.1", "--insecure"):
        assert way in text
    assert file.exists() is not empty


def test_wider_it_is_open_if_that_is_said_to_be_meant(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert check_exposure(config(file), "0.0.0.0", insecure=True)
    assert "--insecure" in caplog.text


def test_with_a_key_of_the_configuration_it_is_not_open(file: Path) -> None:
    assert not check_exposure(config(file, access=access()), "0.0.0.0", insecure=False)
    assert not file.exists()


@pytest.mark.parametrize("over", [{}, {"revoked_at": datetime.now(UTC)}, {"expires_at": datetime.now(UTC)}])
def test_with_a_key_of_the_store_it_is_not_open(file: Path, over: dict[str, Any]) -> None:
    keep(file, record(**over))
    assert not check_exposure(config(file), "0.0.0.0", insecure=False)


def test_with_a_store_that_cannot_be_read_it_starts_and_is_not_open(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    file.write_bytes(b"no database" * 100)
    assert not check_exposure(config(file), "0.0.0.0", insecure=False)
    assert "nobody is let in until it is" in caplog.text


def test_serve_refuses_to_start_and_says_how_to_go_on(tmp_path: Path) -> None:
    file = tmp_path / "arena.yaml"
    file.write_text(
        f"server: {{host: 0.0.0.0, port: 0}}\nstate_dir: {tmp_path}/state\n"
        "models: {a: {model: some/model, gpu_memory_utilization: 0.1}}\n"
    )
    command = [sys.executable, "-m", "arena_server", "serve", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    first, *how = [line for line in done.stderr.splitlines() if line.startswith("arena-server: ")]
    assert first == f"arena-server: {file}: server.host: other machines can reach 0.0.0.0, and there is no API key."
    assert f"arena-server: Make one: arena-server keys create NAME --scope admin --config {file}" in how
    assert not (tmp_path / "state").exists()
