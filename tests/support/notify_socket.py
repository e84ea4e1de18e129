"""systemd's end of sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LIMIT_S = 30.0


class NotifySocket:
    """A socket as $NOTIFY_SOCKET names it, and what came to it."""

    def __init__(self, listening: socket.socket, address: str) -> None:
        self._listening = listening
        self.address = address

    def next(self, limit_s: float = LIMIT_S) -> dict[str, str]:
        """The next message, waited for."""
        self._listening.settimeout(limit_s)
        return dict(line.split("=", 1) for line in self._listening.recv(4096).decode().splitlines())

    def until(self, wanted: Callable[[dict[str, str]], bool]) -> list[dict[str, str]]:
        """All messages up to the first that is wanted."""
        got: list[dict[str, str]] = []
        deadline = time.monotonic() + LIMIT_S
        while not got or not wanted(got[-1]):
            assert time.monotonic() < deadline, got
            got.append(self.next())
        return got

    def waiting(self) -> list[dict[str, str]]:
        """What has come and was not looked at yet."""
        got = []
        with contextlib.suppress(BlockingIOError):
            while True:
                got.append(self.next(0))
        return got


@contextlib.contextmanager
def notify_socket(*, abstract: bool = False) -> Iterator[NotifySocket]:
    """One with a path, or with an abstract name."""
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        path = str(Path(directory) / "notify")
        name = f"\0arena-test-{os.getpid()}" if abstract else path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
            listening.bind(name)
            yield NotifySocket(listening, name.replace("\0", "@"))
