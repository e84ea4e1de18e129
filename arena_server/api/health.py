"""`GET /health`: what operators, load balancers and arena pages look at first."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from arena_server import __version__
from arena_server.api.names import Catalogue
from arena_server.clock import Clock
from arena_server.gpu.probe import MemoryProbe, ProbeError
from arena_server.pool.outlook import Outlook
from arena_server.pool.pool import Pool
from arena_server.pool.residency import Residency
from arena_server.pool.views import ModelView

MOST_SHOWN = 100
# The reason may have paths and other servers' URLs in it, and the route is public.
FAILED = "It failed; /admin/pool and the log have the reason."


class LoadState(BaseModel):
    """How far a load is."""

    phase: str
    fraction: float | None = Field(description="Part of the phase that is done, 0 to 1; null where it is not known")


class ModelHealth(BaseModel):
    """One model. Times in seconds."""

    residency: Residency
    remote: bool = Field(description="Whether another server runs it")
    gpu_memory_utilization: float | None = Field(
        description="Fraction of each of its devices that its engine may use; null for a remote one"
    )
    devices: list[int]
    aliases: list[str]
    display_name: str | None = Field(description="Its name for people; null if it has none of its own")
    pinned: bool
    running: int = Field(description="Requests it is answering")
    waiting: int = Field(description="Requests that wait for it")
    idle_s: float | None = Field(description="Since its last use; null if it was never used")
    last_load_s: float | None = Field(description="What its last load took")
    last_wake_s: float | None = Field(description="What its last wake took")
    loading: LoadState | None
    draining: str | None = Field(description="Why it takes no new requests, if it does not")
    eta_s: float | None = Field(description="Until it may answer, if it is coming up; by what it took before")
    error: str | None = Field(description="That it failed, until it is awake again; the reason is in /admin/pool")
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
    blocked: str | None = Field(description="Why nothing can be loaded there, if others hold too much of it")


class Waiting(BaseModel):
    """Somebody in the queue. Times in seconds."""

    place: int
    models: list[str]
    waited_s: float
    phase: str
    eta_s: float


class Health(BaseModel):
    """The whole picture."""

    status: str
    version: str
    uptime_s: float
    loaded_models: list[str] = Field(description="Awake now")
    available_models: list[str] = Field(description="All that are configured")
    models: dict[str, ModelHealth]
    devices: list[DeviceHealth]
    queue: list[Waiting] = Field(description="Who waits for models, oldest first; at most 100 of them")


def health_router(pool: Pool, probe: MemoryProbe, catalogue: Catalogue, clock: Clock) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["health"])
    started = clock.now()

    def model_health(view: ModelView) -> ModelHealth:
        model = catalogue.models[view.name]
        progress = view.loading
        return ModelHealth(
            residency=view.residency,
            remote=model.remote,
            gpu_memory_utilization=None if model.remote else model.gpu_memory_utilization,
            devices=view.devices,
            aliases=list(model.aliases),
            display_name=model.display_name,
            pinned=view.pinned,
            running=view.running,
            waiting=view.waiting,
            idle_s=_rounded(view.idle_s),
            last_load_s=_rounded(view.times.load_s),
            last_wake_s=_rounded(view.times.wake_s),
            loading=LoadState(phase=progress.phase, fraction=progress.fraction) if progress else None,
            draining=view.draining,
            eta_s=_rounded(view.eta_s),
            error=None if view.error is None else FAILED,
            retry_in_s=_rounded(view.retry_in_s),
        )

    def used_bytes(device: int) -> int | None:
        try:
            return probe.used_bytes(device)
        except ProbeError:
            return None

    @router.get("/health", summary="State of the pool, its models and devices")
    async def health() -> Health:
        view = pool.view()
        books = {d.index: d for d in view.devices}
        return Health(
            status="stopping" if view.closing else "healthy",
            version=__version__,
            uptime_s=round(clock.now() - started, 1),
            loaded_models=[v.name for v in view.models if v.residency is Residency.AWAKE],
            available_models=[v.name for v in view.models],
            models={v.name: model_health(v) for v in view.models if v.name in catalogue.models},
            devices=[
                DeviceHealth(
                    index=device.index,
                    name=device.name,
                    total_bytes=device.total_bytes,
                    reserved_bytes=books[device.index].reserved_bytes,
                    used_bytes=used_bytes(device.index),
                    blocked=books[device.index].blocked,
                )
                for device in probe.devices
            ],
            queue=[_waiting(outlook) for outlook in view.queue[:MOST_SHOWN]],
        )

    return router


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _waiting(outlook: Outlook) -> Waiting:
    return Waiting(
        place=outlook.place,
        models=list(outlook.models),
        waited_s=round(outlook.waited_s, 3),
        phase=outlook.phase,
        eta_s=round(outlook.eta_s, 3),
    )
