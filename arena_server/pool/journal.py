"""What the pool did and why: the last decisions, and everything as it happens for whoever watches."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

KEPT_DECISIONS = 1000
# A watcher that is further behind than this has gone, or hangs: it is cut off, and may ask again.
MOST_UNREAD = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened: `kind` is transition, decision or queue; `facts` are plain JSON values."""

    seq: int
    at: str  # ISO 8601, UTC
    kind: str
    facts: Mapping[str, Any]

    def body(self) -> dict[str, Any]:
        """As JSON."""
        return {"seq": self.seq, "at": self.at, **self.facts}


class Journal:
    """Takes entries from the pool alone; hands them to any number of watchers."""

    def __init__(self, wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._wall_clock = wall_clock
        self._numbers = itertools.count(1)
        self._watchers: set[asyncio.Queue[Entry | None]] = set()
        self._closed = False
        self.decisions: deque[Entry] = deque(maxlen=KEPT_DECISIONS)

    @property
    def watched(self) -> bool:
        """Whether anybody watches; if not, what only watchers would see need not be made."""
        return bool(self._watchers)

    def decided(self, what: str, model: str | None, why: str, cost_s: float | None = None) -> None:
        """A decision: load, wake, sleep, stop, drain, spare or refuse, with what it is expected to cost."""
        facts = {"what": what, "model": model, "why": why, "cost_s": cost_s}
        self.decisions.append(self._add("decision", facts))

    def moved(self, model: str, was: str, to: str, why: str) -> None:
        """A model came to another residency."""
        self._add("transition", {"model": model, "was": was, "to": to, "why": why})

    def queued(self, queue: list[dict[str, Any]]) -> None:
        """The queue is another one now."""
        self._add("queue", {"queue": queue})

    async def watch(self) -> AsyncGenerator[Entry, None]:
        """Everything from now on. Ends when the watcher fell too far behind, or the daemon stops."""
        if self._closed:
            return  # nobody would send it away, and it would hold the daemon's end for its grace
        mailbox: asyncio.Queue[Entry | None] = asyncio.Queue()
        self._watchers.add(mailbox)
        try:
            while (entry := await mailbox.get()) is not None:
                yield entry
        finally:
            self._watchers.discard(mailbox)

    def close(self) -> None:
        """Send every watcher away, now and from now on."""
        self._closed = True
        for mailbox in list(self._watchers):
            self._cut_off(mailbox)

    def _add(self, kind: str, facts: Mapping[str, Any]) -> Entry:
        entry = Entry(next(self._numbers), self._wall_clock().isoformat(timespec="milliseconds"), kind, facts)
        for mailbox in list(self._watchers):
            mailbox.put_nowait(entry)
            if mailbox.qsize() > MOST_UNREAD:
                self._cut_off(mailbox)
        return entry

    def _cut_off(self, mailbox: asyncio.Queue[Entry | None]) -> None:
        self._watchers.discard(mailbox)
        mailbox.put_nowait(None)
