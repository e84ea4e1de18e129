"""The console's commands as processes, before the daemon itself (over fake engines)."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from arena_server.console.picture import Picture
from arena_server.console.shape import read
from arena_server.pool.residency import Residency
from tests.support.daemon_app import MODELS, SLEEP_MEMORY_BYTES, FakeDaemon, running_daemon
from tests.support.gate import LIMIT_S, until
from tests.support.leases import ask, use, waits
from tests.test_console_daemon import console, environment

Done = subprocess.CompletedProcess[str]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    """From a file, so that it can be read again."""
    file = tmp_path / "arena.yaml"
    write(file)
    async with running_daemon(file=file) as running:
        yield running


def write(file: Path, **more: object) -> None:
    models = {name: {**model, "sleep_level": 1, "devices": [0]} for name, model in MODELS.items()}
    settings = {"sleep_memory_bytes": SLEEP_MEMORY_BYTES}
    file.write_text(json.dumps({"models": {**models, **more}, "pool": settings}))


async def run(daemon: FakeDaemon, *arguments: str) -> Done:
    return await asyncio.to_thread(console, *arguments, "--url", daemon.url)


async def test_status_shows_every_model_and_who_waits(daemon: FakeDaemon) -> None:
    await use(daemon, "beta")
    daemon.engines["alpha"].load_gate.hold()
    waiting = ask(daemon, "alpha")
    await waits(daemon, "alpha")
    done = await run(daemon, "status", "--once")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row.split()[0]: row.split()[1] for row in done.stdout.splitlines() if row.startswith("  ")}
    assert rows["beta"] == "awake"
    assert rows["alpha"] == "loading"
    assert rows["org/gamma"] == "cold"
    assert "load beta: a request waits for it" in done.stdout
    daemon.engines["alpha"].load_gate.release()
    (await waiting).release()


async def test_status_as_json_is_the_pool(daemon: FakeDaemon) -> None:
    done = await run(daemon, "status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [m.name for m in read(Picture, json.loads(done.stdout)).models] == list(MODELS)


async def test_a_model_is_loaded_put_to_sleep_and_stopped(daemon: FakeDaemon) -> None:
    for order, residency in (("load", "awake"), ("sleep", "asleep"), ("load", "awake"), ("stop", "cold")):
        done = await run(daemon, order, "org/gamma")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1].startswith(f"org/gamma: {residency} after ")
        assert daemon.view("org/gamma").residency == residency
    assert daemon.engines["org/gamma"].loads == 1


async def test_a_load_that_fails_is_told_and_a_status(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].fail_loads("broken weights")
    done = await run(daemon, "load", "alpha")
    assert done.returncode == 1
    assert done.stderr == "arena-server: alpha has failed: broken weights\n"


async def test_an_alias_may_be_named(daemon: FakeDaemon) -> None:
    done = await run(daemon, "pin", "gpt-4o")
    assert (done.returncode, done.stdout) == (0, "alpha: pinned (cold)\n")
    assert daemon.view("alpha").pinned


async def test_what_the_daemon_refuses_is_told_in_its_words(daemon: FakeDaemon) -> None:
    done = await run(daemon, "sleep", "alpha")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "arena-server: alpha is cold: only a model that is awake can be put to sleep.\n"
    done = await run(daemon, "load", "alhpa")
    assert done.returncode == 1
    assert "Did you mean `alpha`?" in done.stderr


async def test_what_can_never_be_awake_is_not_waited_for(daemon: FakeDaemon) -> None:
    for name in ("alpha", "beta"):
        daemon.pool.pin(name, True)
    done = await run(daemon, "load", "org/gamma")
    assert done.returncode == 1
    assert "(pinned)" in done.stderr


async def test_a_reload_says_what_changed(daemon: FakeDaemon) -> None:
    file = daemon.config.file
    assert (await run(daemon, "reload")).stdout == "no model has changed\n"
    write(file, delta={"model": "org/delta", "gpu_memory_utilization": 0.2})
    assert (await run(daemon, "reload")).stdout == "added: delta\n"
    file.write_text("models: {}\npoool: 1\n")
    done = await run(daemon, "reload")
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert {first.split(": ")[2], second.split(": ")[2]} == {"models", "poool"}
    assert "delta" in daemon.engines


async def test_events_are_told_as_they_happen_until_the_reader_leaves(daemon: FakeDaemon) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "arena_server", "events", "--url", daemon.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    await until(lambda: daemon.pool.journal.watched, "the console to watch")
    await use(daemon, "alpha")
    lines: list[str] = []
    async with asyncio.timeout(LIMIT_S):
        while not lines or "queue: empty" not in lines[-1]:
            lines.append((await process.stdout.readline()).decode())
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    told = [line.partition(" ")[2] for line in lines]
    assert any("load alpha: a request waits for it" in line for line in told)
    assert any("alpha" in line and "awake" in line for line in told)
    assert (process.returncode, errors) == (130, b"")
    await until(lambda: not daemon.pool.journal.watched, "the watcher to be forgotten")
    assert daemon.view("alpha").residency is Residency.AWAKE
