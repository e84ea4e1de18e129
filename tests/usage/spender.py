"""A program that uses a model without end: it says how many tokens it has counted, and how many are kept."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from arena_server.caller import Caller
from arena_server.clock import SystemClock
from arena_server.course import Courses
from arena_server.request_id import Origin
from arena_server.store.store import Store
from arena_server.store.usage_record import Place, Used
from arena_server.usage.ledger import Ledger
from arena_server.usage.meter import UsageMeter
from arena_server.usage.price import Prices


class Telling(Ledger):
    """Says what is kept once it is."""

    kept = 0

    async def add(self, number: int, now: datetime, batch: Mapping[Place, Used]) -> None:
        await super().add(number, now, batch)
        self.kept += sum(used.completion_tokens for used in batch.values())
        print("kept", time.monotonic(), self.kept, flush=True)


async def main(url: str) -> None:
    store = Store(url)
    await store.open()
    meter = UsageMeter(
        Telling(store), SystemClock(), lambda: datetime.now(UTC), lambda _: Prices(), lambda caller, tokens: None
    )
    course = Courses(SystemClock(), [meter]).begin(Origin("id", caller=Caller(key="k1")), "/v1", "alpha", stream=True)
    course.is_granted()
    flushing = asyncio.create_task(meter.run())
    while not flushing.done():
        await asyncio.sleep(0.01)
        course.counts(0, course.tokens.completion_tokens + 1)
        print("counted", time.monotonic(), course.tokens.completion_tokens, flush=True)


asyncio.run(main(sys.argv[1]))
