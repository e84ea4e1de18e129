"""Tells systemd how the service is: ready, reloading, stopping, alive, and a line for `systemctl status`.

The protocol is sd_notify(3), which promises to stay as it is: datagrams of `NAME=value` lines to the socket that
$NOTIFY_SOCKET names. Written here as there is no library to lean on: sdnotify has had no release since 2017 and
swallows its errors, systemd-python compiles against libsystemd, whose headers GPU hosts do not have.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
STATUS_EVERY_S = 1.0
# systemd's queue may be full, but the event loop must not stand still for it.
SEND_LIMIT_S = 0.5
# Beyond the grace of running answers: for stopping the engines.
STOP_MARGIN_S = 30.0


class Notifier:
    """One service's end of the protocol. Without an address it says nothing, and nothing else changes."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        """`address`: a path, or an abstract name after `@`; `watchdog_s`: how long it may be silent, at the most."""
        self._address = address
        self.watchdog_s = watchdog_s
        self._shown = ""
        self._stopping = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """What systemd asks of this process. Takes the variables out: engines that inherit them could speak for it."""
        address, watchdog_us, watchdog_pid = (environment.pop(name, "") for name in VARIABLES)
        if not address.startswith(("/", "@")):
            return cls()
        asked = watchdog_us.isdecimal() and int(watchdog_us) > 0 and watchdog_pid in ("", str(os.getpid()))
        return cls(address, int(watchdog_us) / 1e6 if asked else None)

    def ready(self) -> None:
        """The service answers: `systemctl start` returns."""
        if not self._stopping:
            self._say("READY=1")

    def stopping(self, grace_s: float) -> None:
        """The service ends, for which it may take `grace_s` and what engines need, whatever TimeoutStopSec= says."""
        limit_us = int((grace_s + STOP_MARGIN_S) * 1e6)
        self._say("STOPPING=1", f"EXTEND_TIMEOUT_USEC={limit_us}")
        self.status(f"stopping; running answers get {grace_s:g} s")
        self._stopping = True

    def status(self, line: str) -> None:
        """A line for people; said only when it is another one than before."""
        if line != self._shown and not self._stopping:
            self._shown = line
            self._say("STATUS=" + " ".join(line.split()))

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Around reading the configuration again, well or not: a service that never says READY again hangs in it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say("RELOADING=1", f"MONOTONIC_USEC={now_us}")
        try:
            yield
        finally:
            self.ready()

    def reloading_in(self, reload: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        """The same function, within `reloading`."""

        @functools.wraps(reload)
        async def told() -> T:
            with self.reloading():
                return await reload()

        return told

    async def keep_telling(self, line: Callable[[], str]) -> None:
        """For ever: what `line` returns as the status, and the watchdog's signs of life at half its time.

        Runs on the event loop that serves, so that one that is stuck falls silent.
        """
        if self._address is None:
            return
        loop = asyncio.get_running_loop()
        beat_s = self.watchdog_s / 2 if self.watchdog_s else float("inf")
        beat_at = loop.time()
        complained = False
        while True:
            if loop.time() >= beat_at:
                beat_at = loop.time() + beat_s
                self._say("WATCHDOG=1")
            try:
                self.status(line())
            except Exception:  # a status line that cannot be made is no reason to be taken for dead
                if not complained:
                    logger.exception("The line for systemctl status")
                complained = True
            await asyncio.sleep(min(STATUS_EVERY_S, beat_at - loop.time()))

    def _say(self, *lines: str) -> None:
        if self._address is None:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.settimeout(SEND_LIMIT_S)
                sending.sendto("\n".join(lines).encode(), name)
        except OSError as e:
            logger.warning("systemd could not be told %s: %s", lines[0], e)


def status_line(residencies: Iterable[str]) -> str:
    """Where the models are, in a line: "2 of 5 models awake, 1 loading"."""
    counts = Counter(residencies)
    total, awake = counts.total(), counts.pop("awake", 0)
    others = [f"{number} {residency}" for residency, number in counts.items() if residency != "cold"]
    return ", ".join([f"{awake} of {total} model{'s' * (total != 1)} awake", *others])
