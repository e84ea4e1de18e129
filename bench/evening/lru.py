"""The usual recipe, as the baseline: FastAPI, one lock, an OrderedDict of loaded engines, least recently used first.

A request is for one model. If that is loaded, it is streamed from at once. Else, in the order asked: while there is no
room, the least recently used engine leaves, one that nobody streams from before others (as with Ollama); what still
streams from it ends first, and who asks for it meanwhile waits in line. The sides of a battle are two requests.

Engines are started from arena-server's zygote: what is compared is who is loaded when.

    python -m bench.evening.lru ARENA.YAML PORT
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
import yaml
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

from arena_server.config_model import ModelConfig
from arena_server.engine.base import Engine, EngineError
from arena_server.engine.command import engine_command
from arena_server.engine.launcher import Launcher
from arena_server.engine.vllm import VllmEngine
from arena_server.gpu.probe import open_probe


class LruEngines:
    """At most `room` of the engines are loaded."""

    def __init__(self, engines: dict[str, Engine], room: int) -> None:
        self._engines = engines
        self._room = room
        self._loaded = OrderedDict[str, Engine]()
        self._running = Counter[str]()
        self._lock = asyncio.Lock()  # one load or stop at a time
        self._ended = asyncio.Condition()
        self.loads = 0

    async def take(self, name: str) -> None:
        """Have it loaded, and in use until `give_back`. Raises EngineError."""
        if name in self._loaded:
            return self._use(name)
        async with self._lock:
            if name not in self._loaded:  # nor has one before in line had it loaded
                await self._load(name)
            self._use(name)

    async def give_back(self, name: str) -> None:
        """It is used by one less."""
        self._running[name] -= 1
        async with self._ended:
            self._ended.notify_all()

    async def stop_all(self) -> None:
        """Stop what is loaded, once nobody uses it."""
        async with self._lock:
            while self._loaded:
                await self._evict()

    def _use(self, name: str) -> None:
        self._loaded.move_to_end(name)
        self._running[name] += 1

    async def _load(self, name: str) -> None:
        while len(self._loaded) >= self._room:
            await self._evict()
        self.loads += 1
        try:
            await self._engines[name].load()
        except BaseException:
            await self._engines[name].stop()
            raise
        self._loaded[name] = self._engines[name]

    async def _evict(self) -> None:
        victim = next((name for name in self._loaded if not self._running[name]), next(iter(self._loaded)))
        engine = self._loaded.pop(victim)  # from now on who asks for it waits in line
        async with self._ended:
            await self._ended.wait_for(lambda: not self._running[victim])
        await engine.stop()


def make_app(engines: LruEngines, sockets: Path) -> FastAPI:
    """Chat completions by the engines, whose sockets lie below `sockets`."""
    app = FastAPI()

    async def relayed(name: str, body: Any) -> AsyncIterator[bytes]:
        connector = aiohttp.UnixConnector(str(sockets / name / "http.sock"))
        try:
            async with (
                aiohttp.ClientSession("http://engine", connector=connector) as client,
                client.post("/v1/chat/completions", json=body) as answer,
            ):
                async for chunk in answer.content.iter_any():
                    yield chunk
        finally:
            await engines.give_back(name)

    @app.get("/health")
    async def health() -> dict[str, int]:
        return {"loads": engines.loads}

    @app.post("/stop")
    async def stop() -> None:
        await engines.stop_all()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        body = await request.json()
        try:
            await engines.take(body["model"])
        except EngineError as e:
            raise HTTPException(503, str(e)) from e
        return StreamingResponse(relayed(body["model"], body), media_type="text/event-stream")

    return app


def main() -> None:
    """Serve the models of the configuration, as many at a time as it says, on the port."""
    config, sockets = yaml.safe_load(Path(sys.argv[1]).read_text()), Path(sys.argv[1]).parent / "lru"
    launcher, gpu = Launcher("fork", {}), open_probe().gpu
    engines: dict[str, Engine] = {}
    for name, fields in config["models"].items():
        command = partial(engine_command, name, ModelConfig.model_validate(fields), (0,), gpu=gpu)
        engines[name] = VllmEngine(name, launcher, sockets / name, command, load_timeout_s=600.0)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await launcher.warm_up()
        yield
        await launcher.close()

    app = make_app(LruEngines(engines, config["pool"]["max_awake_models"]), sockets)
    app.router.lifespan_context = lifespan
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", loop="uvloop")


if __name__ == "__main__":
    main()
