"""The daemon's HTTP server around an application, on a real port, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from arena_server.config import ServerConfig
from arena_server.pool.pool import Pool
from arena_server.serve import Server, http_settings


@contextlib.asynccontextmanager
async def serving(
    app: FastAPI,
    pool: Pool,
    grace_s: int = 5,
    most_connections: int | None = None,
    settings: ServerConfig | None = None,
) -> AsyncIterator[int]:
    """Serve `app` as `arena_server.serve` does, on a free port, which this yields.

    Uvicorn's own steps are taken here one by one: its main loop would wait up to 0.1 s for each end, and would
    take over the test run's signals.
    """
    config = http_settings(app, settings or ServerConfig(), most_connections)
    config.port = 0
    config.timeout_graceful_shutdown = grace_s
    config.load()
    server = Server(config, pool)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    await server.on_tick(0)  # makes the Date header
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()
        assert not server.server_state.tasks, "requests outlived the server"
        # Uvicorn leaves the lifespan's task to the loop's end.
        await asyncio.sleep(0)
