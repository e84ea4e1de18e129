"""Puts a loaded vLLM to sleep and wakes it, over its development routes (VLLM_SERVER_DEV_MODE)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from arena_server.engine.base import EngineError
from arena_server.engine.canary import canary_answer, shown
from arena_server.engine.client import EngineClient, EngineLost, EngineUnreachable
from arena_server.engine.facts import tells_of_lack

HEADERS = ((b"content-type", b"application/json"),)


class Sleeper:
    """One loaded engine's sleep. Whatever goes wrong is an EngineError that names the step."""

    def __init__(self, client: EngineClient, model: str, timeout_s: float) -> None:
        """`model` is the name the engine serves; falling asleep and waking may take `timeout_s` each."""
        self._client = client
        self._model = model
        self._timeout_s = timeout_s
        self._level = 0
        self._has_canary = False
        self._canary: str | None = None
        self._step = ""

    async def sleep(self, level: int) -> None:
        """Fall asleep at vLLM's `level`."""
        async with self._bounded("falling asleep"):
            if not self._has_canary:
                self._step = "the canary's first answer"
                self._canary = await canary_answer(self._client, self._model)
                self._has_canary = True
            await self._post(f"/sleep?level={level}")
            await self._check(sleeping=True)
            self._level = level

    async def wake(self) -> None:
        """Wake, and answer the canary as before."""
        async with self._bounded("waking"):
            if self._level == 1:
                await self._post("/wake_up")
            else:
                # In this order: a cache that is there already would leave no room for the weights' second copy, and
                # weights that are only given their memory back hold garbage (vLLM issue #29341).
                await self._post("/wake_up?tags=weights")
                await self._post("/collective_rpc", {"method": "reload_weights"})
                await self._post("/wake_up?tags=kv_cache")
            await self._check(sleeping=False)
            self._step = "the canary's answer"
            answer = await canary_answer(self._client, self._model)
            if answer != self._canary:
                raise EngineError(f"it answers {answer!r} to what it answered {self._canary!r} before it slept")

    async def _post(self, path: str, body: object = None) -> None:
        self._step = path
        content = b"" if body is None else json.dumps(body).encode()
        async with self._client.post(path, HEADERS, content) as answer:
            said = await answer.read()
        if answer.status != 200:
            raise EngineError(f"the engine answered {answer.status}: {shown(said)}")

    async def _check(self, *, sleeping: bool) -> None:
        self._step = "/is_sleeping"
        async with self._client.get("/is_sleeping") as answer:
            said = await answer.read()
        try:
            is_sleeping = json.loads(said)["is_sleeping"]
        except (ValueError, LookupError, TypeError):
            raise EngineError(f"the engine answered {answer.status}: {shown(said)}") from None
        if is_sleeping is not sleeping:
            raise EngineError(f"the engine says that it is {'not ' if sleeping else 'still '}asleep")

    @contextlib.asynccontextmanager
    async def _bounded(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            reason = f"no answer within {self._timeout_s:g} s (pool.sleep_timeout_s)"
            raise EngineError(f"{what}: {self._step}: {reason}") from None
        except (EngineError, EngineUnreachable, EngineLost) as e:
            raise EngineError(f"{what}: {self._step}: {e}", out_of_memory=tells_of_lack(str(e))) from e
