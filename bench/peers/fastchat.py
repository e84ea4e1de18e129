"""FastChat's controller and API server, before a worker that stands in for its own.

Its own worker would load a model. The stand-in (fastchat_worker.py) is the engine as well: FastChat has no way to go
from the worker to an engine here, and none of the worker's cost, which is generous to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from bench.client import Target
from bench.peers.door import START_LIMIT_S, Door, program, until_answers
from bench.peers.engine import Engine
from bench.peers.ports import free_ports
from bench.processes import BenchError, running, until_healthy

NAME = "fastchat"
VERSION = "0.2.36"
# It was written for pydantic 1, and FastAPI of its time. uvicorn takes uvloop and httptools where they are, and is
# faster with them; FastChat does not ask for them.
REQUIREMENTS = (
    f"fschat=={VERSION}",
    "pydantic==1.10.27",
    "fastapi==0.125.0",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
    "httptools==0.9.0",
)
# As json.dumps writes it; all words of the stand-in begin with a space.
TOKEN_MARK = b'"content": " '


@contextlib.asynccontextmanager
async def front_door(home: Path, engine: Engine, directory: Path) -> AsyncIterator[Door]:
    """Controller, worker and API server, up; their programs are in `home`, `directory` is for their files."""
    python = str(home / "bin" / "python")
    at_controller, at_server = free_ports(2)
    controller = f"http://127.0.0.1:{at_controller}"
    place = ("--host", "127.0.0.1", "--port")
    env = {"LOGDIR": str(directory)}
    server_options = (*place, str(at_server), "--controller-address", controller)
    modules = ("fastchat.serve.controller", "fastchat.serve.openai_api_server")
    target = Target(NAME, at_server, token_mark=TOKEN_MARK)
    async with (
        program(directory, "controller", python, "-m", modules[0], *place, str(at_controller), env=env) as first,
        program(directory, "api-server", python, "-m", modules[1], *server_options, env=env) as server,
    ):
        async with aiohttp.ClientSession(controller) as client:
            await until_healthy(client, first.process, START_LIMIT_S, first.log, path="/test_connection")
        async with _worker(controller, engine):
            await until_answers(target, server, first)
            about = f"FastChat {VERSION}, controller and API server (with uvloop and httptools), a stand-in as worker"
            yield Door(about, [server.side(target), first.side(target)])


@contextlib.asynccontextmanager
async def _worker(controller: str, engine: Engine) -> AsyncIterator[None]:
    options = ("--controller", controller, "--pace", str(engine.pace))
    pipe = asyncio.subprocess.PIPE
    async with running("-m", "bench.peers.fastchat_worker", *options, stdout=pipe) as process:
        assert process.stdout is not None
        # It says its port once the controller knows it.
        line = await asyncio.wait_for(process.stdout.readline(), START_LIMIT_S)
        if not line.strip().isdigit():
            raise BenchError("the stand-in worker could not register at FastChat's controller")
        yield
