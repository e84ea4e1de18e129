"""`/admin`: everything the pool knows, what it decided and why, and the operator's orders."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

import psutil
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from sse_starlette import EventSourceResponse

from arena_server import __version__
from arena_server.api.names import Catalogue
from arena_server.clock import Clock
from arena_server.errors import CrossSite
from arena_server.gpu.probe import MemoryProbe, ProbeError
from arena_server.pool.device_processes import DeviceProcesses
from arena_server.pool.pool import Pool
from arena_server.pool.views import DeviceView, ModelView

KEEP_ALIVE_S = 15


class Reloaded(BaseModel):
    """What a reload of the configuration changed: models, and keys that need a restart to take effect."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    unchanged: list[str]
    needs_restart: list[str]


def refuse_cross_site(request: Request) -> None:
    """Any page could else have its visitor's browser give orders (W3C, Fetch Metadata). Raises CrossSite."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise CrossSite("Orders are not taken from pages of other sites.")


def _processes(found: DeviceProcesses) -> dict[str, Any]:
    listed = None if found.processes is None else [asdict(p) for p in found.processes]
    return {"processes": listed, "processes_unknown": found.why}


def admin_router(
    pool: Pool,
    probe: MemoryProbe,
    catalogue: Catalogue,
    clock: Clock,
    reload: Callable[[], Awaitable[Reloaded]],
) -> APIRouter:
    """The routes; `reload` reads the configuration again."""
    router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(refuse_cross_site)])
    started = clock.now()

    def model_json(view: ModelView) -> dict[str, Any]:
        config = catalogue.models.get(view.name)
        about = {} if config is None else {
            "model": config.model,
            "aliases": list(config.aliases),
            "gpu_memory_utilization": config.gpu_memory_utilization,
        }  # fmt: skip
        return {"model": "", "aliases": [], "gpu_memory_utilization": 0.0, **about, **asdict(view)}

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
        async def events() -> AsyncIterator[dict[str, str]]:
            async for entry in pool.journal.watch():
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
