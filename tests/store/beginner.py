"""A program that opens a database and votes in it, as soon as it is told to."""

from __future__ import annotations

import asyncio
import importlib
import sys

from arena_server.store.records import Vote
from arena_server.store.store import Store
from tests.store.samples import NOON, battle

# Imported before, so that several that are told at once begin at once.
for module in ("alembic.command", "arena_server.store.battles", "arena_server.store.database"):
    importlib.import_module(module)


async def main(url: str, name: str) -> None:
    store = Store(url)
    await store.open()
    await store.vote(battle(name), Vote.A, NOON)
    await store.close()
    print("voted", flush=True)


print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main(*sys.argv[1:]))
