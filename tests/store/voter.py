"""A program that votes without end, and says of each battle when its vote is acknowledged."""

from __future__ import annotations

import asyncio
import sys

from arena_server.store.records import Vote
from arena_server.store.store import Store
from tests.store.samples import NOON, battle


async def main(url: str) -> None:
    store = Store(url)
    number = 0
    while True:
        number += 1
        await store.vote(battle(f"b{number}"), Vote.A, NOON)
        print(f"b{number}", flush=True)


asyncio.run(main(sys.argv[1]))
