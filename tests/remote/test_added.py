"""Remote models that are added, changed and removed while the daemon runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from arena_server.pool.residency import Residency
from tests.remote.test_daemon import CHAT, LOCAL, ask
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import until
from tests.support.raw_client import once, post
from tests.support.remote_server import RemoteServer, remote_server


@pytest.fixture
async def server() -> AsyncIterator[RemoteServer]:
    async with remote_server() as server:
        yield server


@pytest.fixture
async def daemon(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeDaemon]:
    monkeypatch.setattr("arena_server.pool.remotes.EVERY_S", 0.01)
    monkeypatch.delenv("FAR_KEY", raising=False)
    async with running_daemon({"alpha": LOCAL}) as running:
        yield running


async def awake(daemon: FakeDaemon) -> None:
    await until(
        lambda: "far" in daemon.pool.names and daemon.view("far").residency is Residency.AWAKE, "far to be connected"
    )


async def test_one_that_is_added_is_connected_and_one_that_changes_anew(
    daemon: FakeDaemon, server: RemoteServer
) -> None:
    settings: dict[str, Any] = {"name": "far", "model": "org/there", "backend_url": server.url}
    assert (await post(daemon.port, "/admin/models", settings)).status == 201
    await awake(daemon)
    assert server.asked == []
    async with remote_server() as other:
        change = b'{"backend_url": "%b"}' % other.url.encode()
        headers = [("content-type", "application/json")]
        assert (await once(daemon.port, "PATCH", "/admin/models/far", change, headers)).status == 200
        await until(lambda: other.looks, "the other server to be looked at")
        await awake(daemon)
        assert (await post(daemon.port, CHAT, ask())).status == 200
        assert (len(server.asked), len(other.asked)) == (0, 1)
    assert (await once(daemon.port, "DELETE", "/admin/models/far")).status == 200
    await until(lambda: "far" not in daemon.pool.names, "it to be gone")


async def test_one_whose_key_is_not_there_is_refused_and_nothing_changes(
    daemon: FakeDaemon, server: RemoteServer
) -> None:
    settings = {"name": "far", "model": "org/there", "backend_url": server.url, "api_key_env": "FAR_KEY"}
    answer = await post(daemon.port, "/admin/models", settings)
    assert answer.status == 400
    assert "models.far.api_key_env: the environment variable FAR_KEY is not set" in answer.error()["message"]
    assert daemon.pool.names == ["alpha"]
    assert server.requests == []


async def test_one_whose_key_is_gone_at_the_next_start_keeps_nobody_from_being_served(
    server: RemoteServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = f"sqlite:///{tmp_path}/arena.sqlite"
    settings = {"name": "far", "model": "org/there", "backend_url": server.url, "api_key_env": "FAR_KEY"}
    monkeypatch.setenv("FAR_KEY", "sk-far")
    async with running_daemon({"alpha": LOCAL}, arena={"database": database}) as daemon:
        assert (await post(daemon.port, "/admin/models", settings)).status == 201
        assert (await post(daemon.port, CHAT, ask())).status == 200
    monkeypatch.delenv("FAR_KEY")
    async with running_daemon({"alpha": LOCAL}, arena={"database": database}) as daemon:
        assert (await post(daemon.port, CHAT, ask("alpha"))).status == 200
        shown = {m["name"]: m for m in (await once(daemon.port, "GET", "/admin/models")).json()["models"]}
        assert shown["far"]["state"] == "faulty"
        assert "FAR_KEY is not set" in shown["far"]["errors"][0]
