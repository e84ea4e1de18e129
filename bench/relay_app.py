"""The daemon as it is, in front of the stand-in engine: the real pool, core, routes, relay and server.

Only the engine is another: its process is there already, so loading it is connecting to it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from arena_server.app import build
from arena_server.config import Config
from arena_server.engine.base import EngineError, LoadFacts, LoadProgress
from arena_server.engine.client import EngineClient, EngineLost, EngineUnreachable
from arena_server.engine.parent_death import die_with_parent
from arena_server.gpu.probe import HostProbe
from arena_server.log import set_up_logging
from arena_server.measurements import MeasurementStore
from arena_server.serve import listen, server
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from bench.stand_in import MODEL


class StandInEngine:
    """An engine that somebody else started on the socket; implements `Engine`."""

    remote = False
    progress: LoadProgress | None = None
    facts = LoadFacts()
    pids: frozenset[int] = frozenset()

    def __init__(self, name: str, path: Path) -> None:
        self.name = self.served_name = name
        self.log_tail: list[str] = []
        self._path = path
        self._client: EngineClient | None = None

    @property
    def client(self) -> EngineClient:
        """See `Engine`."""
        assert self._client is not None, "not loaded"
        return self._client

    async def load(self, kv_cache_bytes: int | None = None) -> None:
        """See `Engine`."""
        self._client = EngineClient(self._path, ahead=True)
        try:
            async with self._client.get("/health") as response:
                assert response.status == 200
        except (EngineLost, EngineUnreachable) as e:
            raise EngineError(str(e)) from e

    async def sleep(self, level: int) -> None:
        """See `Engine`: it is never asked to."""
        raise EngineError("it cannot sleep")

    async def wake(self) -> None:
        """See `Engine`: likewise."""
        raise EngineError("it cannot sleep")

    async def stop(self) -> None:
        """See `Engine`."""
        if self._client is not None:
            self._client.close()
        self._client = None

    async def died(self) -> str:
        """See `Engine`: nobody looks after it, so it never dies."""
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never


def main() -> None:
    """Entry of the process; its first line on standard output is the port."""
    parser = argparse.ArgumentParser(description="arena-server in front of a stand-in engine.")
    parser.add_argument("--engine", type=Path, required=True, help="path of the stand-in's socket")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (any free one)")
    parser.add_argument("--votes", metavar="URL", help="the daemon's database (a file beside the engine's socket)")
    args = parser.parse_args()
    die_with_parent(os.getppid())
    set_up_logging("warning")
    config = Config.model_validate(
        {
            "server": {"port": args.port, "shutdown_grace_s": 1.0},
            "models": {MODEL: {"model": MODEL, "gpu_memory_utilization": 0.05}},
        }
    )
    listener = listen(config)
    store = MeasurementStore(None)  # in memory
    votes = Store(args.votes or sqlite_url(args.engine.with_name("arena.sqlite")))
    daemon = build(
        config, HostProbe(), store, votes, lambda name, _: StandInEngine(name, args.engine), None, may_be_open=True
    )
    print(listener.getsockname()[1], flush=True)
    server(config, daemon).run(sockets=[listener])


if __name__ == "__main__":
    main()
