"""`/admin`: everything the pool knows, what it decided and why, and the operator's orders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

import psutil
from fastapi import APIRouter
from pydantic import BaseModel
from sse_starlette import EventSourceResponse

from arena_server import __version__
from arena_server.api.names import Catalogue
from arena_server.caller import Caller
from arena_server.clock import Clock
from arena_server.gpu.probe import MemoryProbe, ProbeError
from arena_server.pool.device_processes import DeviceProcesses
from arena_server.pool.journal import Entry
from arena_server.pool.pool import Pool
from arena_server.pool.views import DeviceView, ModelView
from arena_server.request_id import origin

KEEP_ALIVE_S = 15
# Who watches while their key is revoked is sent away within that time.
LOOK_AT_KEY_EVERY_S = 2.0


class Reloaded(BaseModel):
    """What a reload of the configuration changed: models, and keys that need a restart to take effect."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    unchanged: list[str]
    needs_restart: list[str]


async def _while(good: Callable[[], bool], entries: AsyncGenerator[Entry, None]) -> AsyncIterator[Entry]:
    """The entries, as long as that is so: it is asked before each, and where none comes now and then."""
    coming = asyncio.ensure_future(anext(entries, None))
    try:
        while good():
            done, _ = await asyncio.wait([coming], timeout=LOOK_AT_KEY_EVERY_S)
            if not done:
                continue
            if (entry := coming.result()) is None or not good():
                return
            coming = asyncio.ensure_future(anext(entries, None))
            yield entry
    finally:
        coming.cancel()
        await asyncio.wait([coming])
        await entries.aclose()


def _processes(found: DeviceProcesses) -> dict[str, Any]:
    listed = None if found.processes is None else [asdict(p) for p in found.processes]
    return {"processes": listed, "processes_unknown": found.why}


def admin_router(
    pool: Pool,
    probe: MemoryProbe,
    catalogue: Catalogue,
    clock: Clock,
    reload: Callable[[], Awaitable[Reloaded]],
    admits: Callable[[Caller], bool],
) -> APIRouter:
    """The routes; `reload` reads the configuration again. `admits`: whether a caller who was let in still would be."""
    router = APIRouter(prefix="/admin", tags=["admin"])
    started = clock.now()

    def model_json(view: ModelView) -> dict[str, Any]:
        config = catalogue.models.get(view.name)
        about = {} if config is None else {
            "model": config.model,
            "aliases": list(config.aliases),
            "display_name": config.display_name,
            "remote": config.remote,
            "backend_url": config.backend_url,
            "gpu_memory_utilization": None if config.remote else config.gpu_memory_utilization,
        }  # fmt: skip
        unknown: dict[str, Any] = {
            "model": "",
            "aliases": [],
            "display_name": None,
            "remote": False,
            "backend_url": None,
        }
        return {**unknown, "gpu_memory_utilization": None, **about, **asdict(view)}

    def one(name: str) -> dict[str, Any]:
        return {"model": next(model_json(v) for v in pool.view().models if v.name == name)}

    def device_json(view: DeviceView) -> dict[str, Any]:
        device = next(d for d in probe.devices if d.index == view.index)
        try:
            used: int | None = probe.used_bytes(view.index)
        except ProbeError:
            used = None
        return {
            "index": view.index,
            "name": device.name,
            "total_bytes": device.total_bytes,
            "budget_bytes": view.budget_bytes,
            "reserved_bytes": view.reserved_bytes,
            "used_bytes": used,
            **_processes(pool.processes(view.index, gpu=probe.gpu)),
            "outside_bytes": view.outside.bytes if view.outside else 0,
            "outside": [asdict(p) for p in view.outside.processes] if view.outside else [],
            "blocked": view.blocked,
        }

    @router.get("/pool", summary="Everything the pool knows")
    async def get_pool() -> dict[str, Any]:
        view = pool.view()
        ram = psutil.virtual_memory()
        return {
            "version": __version__,
            "uptime_s": round(clock.now() - started, 1),
            "status": "stopping" if view.closing else "healthy",
            "limits": {**asdict(view.limits), "max_awake_models": view.max_awake_models},
            "models": [model_json(v) for v in view.models],
            "devices": [device_json(v) for v in view.devices],
            "host": {
                "total_bytes": ram.total,
                "used_bytes": ram.total - ram.available,
                "sleep_budget_bytes": ram.total if view.sleep_budget_bytes is None else view.sleep_budget_bytes,
                "sleep_reserved_bytes": view.sleep_reserved_bytes,
            },
            "queue": [asdict(o) for o in view.queue],
            "swaps_total": view.swaps_total,
        }

    @router.get("/decisions", summary="The last decisions, oldest first")
    async def get_decisions() -> dict[str, Any]:
        return {"decisions": [entry.body() for entry in pool.journal.decisions]}

    @router.get("/events", summary="Every transition, decision and change of the queue, as it happens (SSE)")
    async def get_events() -> EventSourceResponse:
        caller = origin().caller

        async def events() -> AsyncIterator[dict[str, str]]:
            async for entry in _while(lambda: admits(caller), pool.journal.watch()):
                yield {"event": entry.kind, "id": str(entry.seq), "data": json.dumps(entry.body())}

        return EventSourceResponse(events(), ping=KEEP_ALIVE_S)

    orders: dict[str, Callable[[str], None]] = {
        "load": pool.load,
        "sleep": pool.sleep,
        "stop": pool.stop,
        "pin": lambda name: pool.pin(name, True),
        "unpin": lambda name: pool.pin(name, False),
        "reset": pool.reset,
    }

    def add_order(order: str, carry_out: Callable[[str], None]) -> None:
        @router.post(f"/models/{{name:path}}/{order}", status_code=202, summary=f"{order.capitalize()} a model")
        async def give_order(name: str) -> dict[str, Any]:
            known = catalogue.resolve(name)
            carry_out(known)
            return one(known)

    for order, carry_out in orders.items():
        add_order(order, carry_out)

    @router.post("/reload", summary="Read the configuration again")
    async def post_reload() -> Reloaded:
        return await reload()

    return router
