"""What systemd is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from arena_server.demo.daemon import free_port
from arena_server.errors import ConfigError
from arena_server.systemd import Notifier, status_line
from tests.support.notify_socket import NotifySocket, notify_socket


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest) -> Iterator[NotifySocket]:
    with notify_socket(abstract=request.param == "abstract") as listening:
        yield listening


@pytest.fixture
def listening() -> Iterator[NotifySocket]:
    with notify_socket() as listening:
        yield listening


def test_it_says_ready_to_either_kind_of_address(systemd: NotifySocket) -> None:
    environment = {"NOTIFY_SOCKET": systemd.address, "PATH": "/bin"}
    Notifier.from_environment(environment).ready()
    assert systemd.next() == {"READY": "1"}
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("usec", "pid", "watchdog_s"),
    [
        ("30000000", "own", 30.0),
        ("30000000", "", 30.0),
        ("30000000", "1", None),  # meant for another process
        ("0", "own", None),
        ("", "own", None),
        ("soon", "own", None),
    ],
)
def test_the_watchdog_is_asked_for_by_time_and_process(usec: str, pid: str, watchdog_s: float | None) -> None:
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid.replace("own", str(os.getpid()))}
    assert Notifier.from_environment(environment).watchdog_s == watchdog_s
    assert environment == {}


async def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier.from_environment({"WATCHDOG_USEC": "3000000"})
    notifier.ready()
    notifier.status("well")
    with notifier.reloading():
        pass
    await notifier.keep_telling(lambda: pytest.fail("nobody listens"))
    notifier.stopping(30)


def test_a_systemd_that_is_gone_is_said_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    with notify_socket() as listening:
        notifier = Notifier(listening.address)
    notifier.ready()
    assert "systemd could not be told READY=1: " in caplog.text


async def test_a_reload_ends_in_ready_well_or_not(listening: NotifySocket) -> None:
    notifier = Notifier(listening.address)

    async def fails() -> None:
        raise ConfigError(["no"])

    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with pytest.raises(ConfigError):
        await notifier.reloading_in(fails)()
    begun, ended = listening.next(), listening.next()
    assert begun["RELOADING"] == "1"
    assert before_us <= int(begun["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert ended == {"READY": "1"}


def test_the_status_is_one_line_and_said_when_it_changes(listening: NotifySocket) -> None:
    notifier = Notifier(listening.address)
    for line in ("a", "a", "b\nREADY=1", "a"):
        notifier.status(line)
    assert listening.waiting() == [{"STATUS": "a"}, {"STATUS": "b READY=1"}, {"STATUS": "a"}]


def test_after_stopping_it_says_nothing_else(listening: NotifySocket) -> None:
    notifier = Notifier(listening.address)
    notifier.stopping(300)
    notifier.status("1 of 2 models awake")
    notifier.ready()
    begun, status = listening.waiting()
    assert begun["STOPPING"] == "1"
    assert int(begun["EXTEND_TIMEOUT_USEC"]) > 300e6
    assert status == {"STATUS": "stopping; running answers get 300 s"}


async def test_a_loop_that_stands_still_falls_silent(listening: NotifySocket) -> None:
    notifier = Notifier(listening.address, watchdog_s=0.1)
    began = time.monotonic()
    telling = asyncio.create_task(notifier.keep_telling(lambda: "well"))
    first = await asyncio.to_thread(listening.until, lambda m: "STATUS" in m)
    assert first == [{"WATCHDOG": "1"}, {"STATUS": "well"}]
    for _ in range(4):
        assert await asyncio.to_thread(listening.next) == {"WATCHDOG": "1"}
    assert time.monotonic() - began > 4 * 0.04  # at half of the time, not all the time
    listening.waiting()
    time.sleep(0.3)  # noqa: ASYNC251  the stuck loop itself
    assert listening.waiting() == []
    assert await asyncio.to_thread(listening.next) == {"WATCHDOG": "1"}
    telling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await telling


async def test_a_status_that_cannot_be_made_is_not_taken_for_death(
    listening: NotifySocket, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> str:
        raise KeyError("alpha")

    telling = asyncio.create_task(Notifier(listening.address, watchdog_s=0.1).keep_telling(broken))
    for _ in range(3):
        assert await asyncio.to_thread(listening.next) == {"WATCHDOG": "1"}
    telling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await telling
    assert caplog.text.count("The line for systemctl status") == 1


@pytest.mark.parametrize(("watchdog_s", "longest_s"), [(0.5, 0.25), (30.0, 1.0), (None, 1.0)])
async def test_it_looks_again_in_time(
    watchdog_s: float | None, longest_s: float, listening: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await Notifier(listening.address, watchdog_s).keep_telling(lambda: "well")
    assert 0 < max(slept) <= longest_s


def test_the_status_line() -> None:
    assert status_line([]) == "0 of 0 models awake"
    assert status_line(["cold"]) == "0 of 1 model awake"
    assert status_line(["loading", "awake", "cold", "awake", "falling asleep"]) == (
        "2 of 5 models awake, 1 loading, 1 falling asleep"
    )


def test_a_daemon_tells_its_life(tmp_path: Path, listening: NotifySocket) -> None:
    with running_daemon(tmp_path, listening) as (process, url):
        told = listening.until(lambda m: m.get("READY") == "1")
        with urllib.request.urlopen(url + "/health", timeout=10) as health:  # at once
            assert health.status == 200
        if not any("STATUS" in message for message in told):
            told += listening.until(lambda m: "STATUS" in m)
        assert {"STATUS": "0 of 1 model awake"} in told
        assert {"WATCHDOG": "1"} in told
        for child in psutil.Process(process.pid).children(recursive=True):
            assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & child.environ().keys()

        (tmp_path / "arena.yaml").write_text("models: nonsense")
        process.send_signal(signal.SIGHUP)
        told = listening.until(lambda m: m.get("RELOADING") == "1")
        told += listening.until(lambda m: m.get("READY") == "1")
        assert process.poll() is None

        process.send_signal(signal.SIGTERM)
        listening.until(lambda m: m.get("STOPPING") == "1")
        assert process.wait(20) == 0
    assert all("READY" not in message for message in listening.waiting())


def test_a_wrong_configuration_is_said_in_the_status(tmp_path: Path, listening: NotifySocket) -> None:
    with running_daemon(tmp_path, listening, nonsense=1) as (process, _):
        assert process.wait(20) == 2
    (told,) = listening.waiting()
    assert told["STATUS"].startswith(f"not started: {tmp_path}/arena.yaml: nonsense: unknown key")


@contextlib.contextmanager
def running_daemon(
    directory: Path, listening: NotifySocket, **more: object
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`arena-server serve` as systemd would start it; engines that start anew, so that nothing imports vLLM."""
    port = free_port(0)
    config = {"server": {"port": port}, "state_dir": str(directory / "state"), "engine_start": "spawn"}
    config["models"] = {"a": {"model": "./nowhere"}}
    (directory / "arena.yaml").write_text(yaml.safe_dump(config | more))
    asked = {"NOTIFY_SOCKET": listening.address, "WATCHDOG_USEC": "60000000"}
    argv = [sys.executable, "-m", "arena_server", "serve", "-c", str(directory / "arena.yaml")]
    process = subprocess.Popen(argv, env={**os.environ, **asked})
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
