"""`GET /metrics` for Prometheus, and `GET /stats`: how much goes on, in few words."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from arena_server.api.names import Catalogue
from arena_server.metrics.metrics import Metrics
from arena_server.pool.pool import Pool
from arena_server.pool.residency import Residency
from arena_server.request_id import origin


class ModelStats(BaseModel):
    """One model."""

    residency: Residency
    running: int = Field(description="Requests it is answering")
    waiting: int = Field(description="Requests that wait for it")


class Stats(BaseModel):
    """All that the caller may ask, by name."""

    models: dict[str, ModelStats]
    running: int = Field(description="Of these models; a battle counts for each of its two")
    queue_length: int = Field(description="Requests that wait for any models; a battle counts once")


def metrics_router(metrics: Metrics, pool: Pool, catalogue: Catalogue) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["metrics"])

    @router.get("/metrics", summary="Metrics, as Prometheus reads them", response_class=Response)
    async def get_metrics(request: Request) -> Response:
        body, content_type = await metrics.page(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

    @router.get("/stats", summary="Running and waiting requests per model")
    async def get_stats() -> Stats:
        now, allowed = pool.summary(), catalogue.allowed(origin().caller)
        models = [m for m in now.models if m.name in allowed]
        return Stats(
            models={m.name: ModelStats(residency=m.residency, running=m.running, waiting=m.waiting) for m in models},
            running=sum(m.running for m in models),
            queue_length=now.queue_length,
        )

    return router
