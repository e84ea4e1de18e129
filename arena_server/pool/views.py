"""What the pool shows of itself: plain values, made at one moment. Sizes in bytes, times in seconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields

from arena_server.engine.base import Engine, LoadProgress
from arena_server.gpu.device_memory import DeviceMemory, Outside
from arena_server.pool.core import PoolCore
from arena_server.pool.events import Limits, Times
from arena_server.pool.ledger import NOTHING
from arena_server.pool.outlook import Outlook, model_eta_s
from arena_server.pool.records import Records
from arena_server.pool.residency import Residency
from arena_server.pool.state import Model


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """What a model has of one device: reserved now, and measured (None: never, or not by this driver)."""

    index: int
    reserved_bytes: int
    load_peak_bytes: int | None
    awake_bytes: int | None
    asleep_bytes: int | None


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What a model has of all of them, and what its engine said of itself (per device)."""

    devices: list[DeviceShare]
    host_reserved_bytes: int
    weights_bytes: int | None
    kv_cache_bytes: int | None


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model. `idle_s` is None for one never used, `eta_s` for one that is not coming up."""

    name: str
    residency: Residency
    since_s: float
    pinned: bool
    draining: str | None
    running: int
    waiting: int
    requests_total: int
    idle_s: float | None
    devices: list[int]
    sleep_level: int
    memory: ModelMemory
    times: Times
    loading: LoadProgress | None
    eta_s: float | None
    failures: int
    error: str | None
    retry_in_s: float | None


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device's books. `outside` is held by others than this daemon's engines, as far as that can be seen."""

    index: int
    budget_bytes: int
    reserved_bytes: int
    outside: Outside | None
    blocked: str | None


@dataclass(frozen=True, slots=True)
class PoolSummary:
    """Everything but what each who waits can expect, which takes most of the time: 25 ms for a full queue."""

    closing: bool
    limits: Limits
    max_awake_models: int | None
    models: list[ModelView]
    devices: list[DeviceView]
    sleep_budget_bytes: int | None
    sleep_reserved_bytes: int
    queue_length: int
    oldest_wait_s: float
    swaps_total: int


@dataclass(frozen=True, slots=True)
class PoolView(PoolSummary):
    """Everything."""

    queue: list[Outlook]


def pool_summary(
    core: PoolCore,
    engines: Mapping[str, Engine],
    memory: DeviceMemory,
    records: Records,
    outside: Mapping[int, Outside],
    began: float,
    now: float,
) -> PoolSummary:
    """The summary of all these at the time `now`; the pool is there since the time `began`."""
    waiting = Counter(name for w in core.queue for name in w.models)
    return PoolSummary(
        closing=core.closing,
        limits=core.limits,
        max_awake_models=core.ledger.budget.max_awake,
        models=[
            _model_view(core, m, engines[m.name], memory, records, waiting[m.name], began, now)
            for m in core.models.values()
        ],
        devices=[_device_view(core, device, outside.get(device)) for device in core.ledger.budget.device_bytes],
        sleep_budget_bytes=core.ledger.budget.host_bytes,
        sleep_reserved_bytes=core.ledger.host_reserved,
        queue_length=len(core.queue),
        oldest_wait_s=max((now - w.since for w in core.queue), default=0.0),
        swaps_total=core.swaps,
    )


def pool_view(summary: PoolSummary, queue: list[Outlook]) -> PoolView:
    """The whole of it, at the moment of the summary."""
    return PoolView(**{f.name: getattr(summary, f.name) for f in fields(summary)}, queue=queue)


def _model_view(
    core: PoolCore,
    model: Model,
    engine: Engine,
    memory: DeviceMemory,
    records: Records,
    waiting: int,
    began: float,
    now: float,
) -> ModelView:
    leaves = model.draining is not None or model.dismissed is not None
    return ModelView(
        name=model.name,
        residency=model.residency,
        since_s=now - max(model.since, began),  # one that never moved is where it is since then
        pinned=model.spec.pinned,
        draining=model.why if leaves else None,
        running=len(model.leases),
        waiting=waiting,
        requests_total=model.granted,
        idle_s=None if math.isinf(model.last_used) else 0.0 if model.leases else now - model.last_used,
        devices=list(model.spec.footprint),
        sleep_level=model.spec.sleep_level,
        memory=_memory(core, model, memory, records),
        times=model.times,
        loading=engine.progress,
        eta_s=model_eta_s(model, now),
        failures=model.failures,
        error=model.error,
        retry_in_s=max(0.0, model.retry_at - now) if model.residency is Residency.FAILED else None,
    )


def _memory(core: PoolCore, model: Model, memory: DeviceMemory, records: Records) -> ModelMemory:
    held = core.ledger.held.get(model.name, NOTHING)
    known = records.of(model.name)
    readings = memory.readings(model.name)
    return ModelMemory(
        devices=[
            DeviceShare(
                index=device,
                reserved_bytes=held.device_bytes.get(device, 0),
                load_peak_bytes=readings.load_peak_bytes.get(device, known.load_peak_bytes.get(device)),
                awake_bytes=readings.awake_bytes.get(device, known.awake_bytes.get(device)),
                asleep_bytes=readings.asleep_bytes.get(device, known.asleep_bytes.get(device)),
            )
            for device in model.spec.footprint
        ],
        host_reserved_bytes=held.host_bytes,
        weights_bytes=known.weights_bytes,
        kv_cache_bytes=known.kv_cache_bytes,
    )


def _device_view(core: PoolCore, device: int, outside: Outside | None) -> DeviceView:
    budget = core.ledger.budget.device_bytes[device]
    over = core.ledger.outside.get(device, 0)
    shut_out = [
        name
        for name, model in core.models.items()
        if model.residency in (Residency.COLD, Residency.FAILED, Residency.ASLEEP)
        and model.spec.footprint.get(device, 0) > max(0, budget - over)
    ]
    blocked = None
    if over and shut_out:
        # `over` is what is missing: memory of ended engines that is not back counts, too.
        who = ", ".join(f"{p.name} (process {p.pid})" for p in outside.processes) if outside else ""
        blocked = (
            f"{over / 2**30:.1f} GiB of the budget are held by {who or 'others, or were not given back'}; "
            f"no room for {', '.join(shut_out)}"
        )
    return DeviceView(device, budget, core.ledger.reserved(device), outside, blocked)
