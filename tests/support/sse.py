"""Server-sent events as a client reads them (WHATWG HTML, 9.2), over `RawClient`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.support.raw_client import RawClient


@dataclass(frozen=True, slots=True)
class Sent:
    """One event."""

    kind: str
    data: dict[str, Any]


class EventReader:
    """The events of one answer; `seen` is every byte of it so far, headers left out."""

    def __init__(self, client: RawClient) -> None:
        self.seen = bytearray()
        self._client = client
        self._rest = b""
        self._ended = False

    async def next(self) -> Sent | None:
        """The next event; None at the end of the stream."""
        while True:
            head, gap, rest = self._rest.partition(b"\n\n")
            if gap:
                self._rest = rest
                if (event := _event(head)) is not None:
                    return event
                continue
            chunk = await self._client.chunk() if not self._ended else b""
            if not chunk:
                self._ended = True
                assert not self._rest, self._rest
                return None
            self.seen += chunk
            self._rest += chunk

    async def until(self, kind: str) -> Sent:
        """The next event of that kind, passing over others."""
        while (event := await self.next()) is not None:
            if event.kind == kind:
                return event
        raise AssertionError(f"no {kind} came: {bytes(self.seen)!r}")

    async def all(self) -> list[Sent]:
        """All that are left."""
        return [event async for event in self]

    async def __aiter__(self) -> AsyncIterator[Sent]:
        while (event := await self.next()) is not None:
            yield event


def _event(text: bytes) -> Sent | None:
    lines = [line for line in text.decode().split("\n") if line and not line.startswith(":")]
    if not lines:
        return None
    fields = dict(line.split(": ", 1) for line in lines)
    return Sent(fields["event"], json.loads(fields["data"]))
