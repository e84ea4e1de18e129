"""The least that a relay on ASGI does: a few lines on the daemon's own HTTP server and client, bytes there and back.

No keys, limits, queue, leases, counts, metrics or errors of its own; what it adds is what such a relay adds at all.

    python -m bench.bare_relay --engine /tmp/engine.sock; its first line on standard output is the port
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from arena_server.api.http_protocol import HttpProtocol
from arena_server.engine.client import EngineClient
from arena_server.engine.parent_death import die_with_parent

KEPT = frozenset({b"content-type", b"accept"})


class BareRelay:
    """The application (ASGI)."""

    def __init__(self, engine: Path) -> None:
        """`engine` is the socket of what answers."""
        self._client = EngineClient(engine, ahead=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the engine the same, and send on what it answers."""
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(name, value) for name, value in scope["headers"] if name in KEPT]
        exchange = self._client.post(scope["path"], headers, body) if body else self._client.get(scope["path"])
        async with exchange as answer:
            kept = [(name, value) for name, value in answer.headers if name.lower() in KEPT]
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            async for chunk in answer.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def serve(engine: Path) -> None:
    """Answer until a signal comes."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        BareRelay(engine),
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser(description="A bare relay on ASGI, in front of an engine's socket.")
    parser.add_argument("--engine", type=Path, required=True, help="path of the engine's socket")
    args = parser.parse_args()
    die_with_parent(os.getppid())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(args.engine))


if __name__ == "__main__":
    main()
