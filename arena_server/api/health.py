"""`GET /health`: what operators, load balancers and arena pages look at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import APIRouter
from pydantic import BaseModel, Field

from arena_server import __version__
from arena_server.clock import Clock
from arena_server.config import ModelConfig
from arena_server.gpu.probe import MemoryProbe, ProbeError
from arena_server.pool.pool import ModelView, Pool
from arena_server.pool.residency import Residency


class LoadState(BaseModel):
    """How far a load is."""

    phase: str
    fraction: float | None = Field(description="Part of the phase that is done, 0 to 1; null where it is not known")


class ModelHealth(BaseModel):
    """One model. Times in seconds."""

    residency: Residency
    gpu_memory_utilization: float = Field(description="Fraction of each of its devices that its engine may use")
    devices: list[int]
    aliases: list[str]
    pinned: bool
    running: int = Field(description="Requests it is answering")
    waiting: int = Field(description="Requests that wait for it")
    idle_s: float | None = Field(description="Since its last use; null if it was never used")
    last_load_s: float | None = Field(description="What its last load took")
    loading: LoadState | None
    error: str | None = Field(description="Why it last failed, until it is awake again")
    retry_in_s: float | None = Field(description="When a failed one may be asked for again")


class DeviceHealth(BaseModel):
    """One device. Sizes in bytes."""

    index: int
    name: str
    total_bytes: int
    reserved_bytes: int = Field(description="Given by the pool to engines")
    used_bytes: int | None = Field(
        description="In use by whomever, as NVML says (host RAM where there is no GPU); null if it does not answer"
    )


class Health(BaseModel):
    """The whole picture."""

    status: str
    version: str
    uptime_s: float
    loaded_models: list[str] = Field(description="Awake now")
    available_models: list[str] = Field(description="All that are configured")
    models: dict[str, ModelHealth]
    devices: list[DeviceHealth]


def health_router(
    pool: Pool,
    probe: MemoryProbe,
    models: Mapping[str, ModelConfig],
    homes: Mapping[str, Sequence[int]],
    clock: Clock,
) -> APIRouter:
    """The route; `homes` are each model's device indices."""
    router = APIRouter(tags=["health"])
    started = clock.now()

    def model_health(view: ModelView) -> ModelHealth:
        model = models[view.name]
        progress = view.progress
        return ModelHealth(
            residency=view.residency,
            gpu_memory_utilization=model.gpu_memory_utilization,
            devices=list(homes[view.name]),
            aliases=list(model.aliases),
            pinned=model.pinned,
            running=view.running,
            waiting=view.waiting,
            idle_s=_rounded(view.idle_s),
            last_load_s=_rounded(view.last_load_s),
            loading=LoadState(phase=progress.phase, fraction=progress.fraction) if progress else None,
            error=view.error,
            retry_in_s=_rounded(view.retry_in_s),
        )

    def used_bytes(device: int) -> int | None:
        try:
            return probe.used_bytes(device)
        except ProbeError:
            return None

    @router.get("/health", summary="State of the pool, its models and devices")
    async def health() -> Health:
        views = pool.views()
        return Health(
            status="healthy",
            version=__version__,
            uptime_s=round(clock.now() - started, 1),
            loaded_models=[v.name for v in views if v.residency is Residency.AWAKE],
            available_models=[v.name for v in views],
            models={v.name: model_health(v) for v in views},
            devices=[
                DeviceHealth(
                    index=device.index,
                    name=device.name,
                    total_bytes=device.total_bytes,
                    reserved_bytes=pool.reserved_bytes(device.index),
                    used_bytes=used_bytes(device.index),
                )
                for device in probe.devices
            ],
        )

    return router


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
