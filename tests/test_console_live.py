"""The live screen and the moving line, in a terminal that the test holds the other end of."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.test_console_daemon import NO_ROUTE, environment, model_json, pool_json, reply, stand_in

ENTER_SCREEN, LEAVE_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"


@dataclass(slots=True)
class Screen:
    """A process in a terminal, and what it has written so far."""

    process: subprocess.Popen[bytes]
    fd: int
    written: bytearray = field(default_factory=bytearray)
    read: int = 0

    def until(self, part: bytes) -> bytes:
        """Wait for that, behind what was waited for before; returns what came up to its end."""
        while (at := self.written.find(part, self.read)) < 0:
            try:
                self.written += os.read(self.fd, 65536)
            except OSError as e:  # Linux's way to say that the other end is closed
                raise AssertionError(f"{part!r} is not in {bytes(self.written[self.read :])!r}") from e
        began, self.read = self.read, at + len(part)
        return bytes(self.written[began : self.read])

    def rest(self) -> bytes:
        """What comes until the process has ended."""
        with contextlib.suppress(OSError):
            while data := os.read(self.fd, 65536):
                self.written += data
        self.process.wait(60)
        return bytes(self.written[self.read :])

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process.send_signal(signal.SIGWINCH)


@contextlib.contextmanager
def terminal(*arguments: str) -> Iterator[Screen]:
    fd, theirs = pty.openpty()
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    modes = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "arena_server", *arguments]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(TERM="xterm-256color")
    ) as process:
        screen = Screen(process, fd)
        try:
            yield screen
            assert termios.tcgetattr(theirs) == modes  # keys are as they were
            os.close(theirs)
            screen.rest()
        finally:
            process.kill()
            os.close(fd)


def test_the_screen_follows_the_pool_and_q_leaves_it() -> None:
    with (
        stand_in(model_json("alpha")) as daemon,
        terminal("status", "--url", daemon.url, "--interval", "0.1") as screen,
    ):
        screen.until(ENTER_SCREEN)
        screen.until(b"1 cold")
        daemon.pools(pool_json(model_json("alpha", "awake")))
        screen.until(b"1 awake")
        screen.type(b"xq")
        screen.until(LEAVE_SCREEN)
        assert screen.process.wait(60) == 0


def test_the_screen_says_when_the_daemon_has_gone_and_when_it_is_back() -> None:
    with (
        stand_in(model_json("alpha")) as daemon,
        terminal("status", "--url", daemon.url, "--interval", "0.1") as screen,
    ):
        screen.until(b"1 cold")
        daemon.say("GET /admin/pool", NO_ROUTE)
        screen.until(b"No news for")
        screen.until(b"answers 404")
        daemon.pools(pool_json(model_json("alpha", "awake")))
        assert b"No news" not in screen.until(b"1 awake").split(b"arena-server 9.8.7")[-1]
        screen.type(b"q")
        screen.until(LEAVE_SCREEN)
        assert screen.process.wait(60) == 0


def test_the_screen_takes_a_new_size_at_once() -> None:
    with stand_in(model_json("alpha")) as daemon, terminal("status", "--url", daemon.url, "--interval", "60") as screen:
        screen.until(b"alpha")
        screen.resize(30, 24)
        screen.until(b"\r\n" + b" " * 30)
        screen.type(b"q")
        screen.until(LEAVE_SCREEN)
        assert screen.process.wait(60) == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_gives_the_terminal_back(number: signal.Signals, status: int) -> None:
    with stand_in(model_json("alpha")) as daemon, terminal("status", "--url", daemon.url) as screen:
        screen.until(b"alpha")
        screen.process.send_signal(number)
        assert b"Traceback" not in screen.until(LEAVE_SCREEN)
        assert screen.process.wait(60) == status


def test_no_screen_is_taken_where_nobody_answers() -> None:
    with stand_in() as daemon:
        daemon.say("GET /admin/pool", NO_ROUTE)
        with terminal("status", "--url", daemon.url) as screen:
            screen.until(b"answers 404 Not Found")
            assert screen.process.wait(60) == 1
            assert ENTER_SCREEN not in screen.written


def test_once_has_no_escapes_in_a_terminal_either() -> None:
    with stand_in(model_json("alpha")) as daemon, terminal("status", "--once", "--url", daemon.url) as screen:
        screen.until(b"alpha")
        assert screen.process.wait(60) == 0
        assert b"\x1b" not in screen.written


def test_a_load_is_one_line_that_moves() -> None:
    with stand_in() as daemon:
        daemon.say("POST /admin/models/alpha/load", reply({"model": model_json("alpha")}, 202))
        progress = {"phase": "loading weights", "fraction": 0.25}
        daemon.pools(pool_json(model_json("alpha", "loading", loading=progress, eta_s=30.0)))
        with terminal("load", "alpha", "--url", daemon.url) as screen:
            screen.until(b" 25% loading weights, about 30s left")
            daemon.pools(pool_json(model_json("alpha", "awake")))
            screen.until(b"alpha: awake after ")
            assert screen.process.wait(60) == 0
