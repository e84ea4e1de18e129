"""The pool as it is at the moment of a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from arena_server.pool.residency import Residency
from arena_server.pool.views import DeviceView, ModelView, PoolSummary

Row = tuple[Sequence[str], float | None]


class PoolState(Collector):
    """Makes gauges of the pool's own summary, so that none can be out of step with it."""

    def __init__(self, summary: Callable[[], PoolSummary]) -> None:
        self._summary = summary

    def describe(self) -> Iterable[Metric]:
        """None: the registry would else ask the pool, which is still being made."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All of one moment."""
        now = self._summary()
        yield from _models(now.models)
        yield from _model_memory(now.models)
        yield from _queue(now)
        yield from _devices(now.devices)
        yield from _host(now)


def _models(models: Sequence[ModelView]) -> Iterator[Metric]:
    def each(name: str, text: str, value: Callable[[ModelView], float | None]) -> Metric:
        return _gauge(name, text, ["model"], (([m.name], value(m)) for m in models))

    yield _gauge(
        "arena_model_residency",
        "1 for where the model is, 0 for where it is not.",
        ["model", "residency"],
        (([m.name, r.replace(" ", "_")], float(m.residency is r)) for m in models for r in Residency),
    )
    yield each(
        "arena_requests_running", "Requests that the model has leases for: it answers them.", lambda m: m.running
    )
    yield each("arena_requests_waiting", "Requests that wait for the model.", lambda m: m.waiting)
    yield each("arena_model_pinned", "Whether the model is pinned (1).", lambda m: m.pinned)
    yield each(
        "arena_model_draining", "Whether the model takes no new requests, as it has to leave (1).",
        lambda m: m.draining is not None,
    )  # fmt: skip
    yield each("arena_model_consecutive_failures", "Loads and crashes in a row that failed.", lambda m: m.failures)
    yield each("arena_model_idle_seconds", "Since the model's last use, if it was ever used.", lambda m: m.idle_s)
    yield each(
        "arena_model_weights_bytes", "What the model's weights take of each device, once known.",
        lambda m: m.memory.weights_bytes,
    )  # fmt: skip
    yield each(
        "arena_model_kv_cache_bytes", "What the model's KV cache takes of each device, once known.",
        lambda m: m.memory.kv_cache_bytes,
    )  # fmt: skip
    yield each(
        "arena_model_host_reserved_bytes", "Host RAM that the pool's books give to the model's sleep.",
        lambda m: m.memory.host_reserved_bytes,
    )  # fmt: skip
    leases = CounterMetricFamily("arena_leases", "Leases granted on the model.", labels=["model"])
    for m in models:
        leases.add_metric([m.name], m.requests_total)
    yield leases


def _model_memory(models: Sequence[ModelView]) -> Iterator[Metric]:
    shares = [(m.name, share) for m in models for share in m.memory.devices]
    yield _gauge(
        "arena_model_reserved_bytes",
        "What the pool's books give to the model of each device now.",
        ["model", "device"],
        (([name, str(s.index)], s.reserved_bytes) for name, s in shares),
    )
    kinds = ("load_peak", "awake", "asleep")
    yield _gauge(
        "arena_model_measured_bytes",
        "What was last measured of the model on each device (state: load_peak, awake, asleep).",
        ["model", "device", "state"],
        (([name, str(s.index), kind], getattr(s, f"{kind}_bytes")) for name, s in shares for kind in kinds),
    )


def _queue(now: PoolSummary) -> Iterator[Metric]:
    swaps = CounterMetricFamily("arena_swaps", "Awake models that were put away for another.")
    swaps.add_metric([], now.swaps_total)
    yield swaps
    yield _one("arena_queue_length", "Requests that wait for models.", now.queue_length)
    yield _one("arena_queue_limit", "Most that may wait (pool.max_queue).", now.limits.max_queue)
    text = "How long the oldest of them has waited; 0 if none does."
    yield _one("arena_queue_oldest_wait_seconds", text, now.oldest_wait_s)
    yield _one("arena_queue_wait_limit_seconds", "Longest that one may wait (pool.max_wait_s).", now.limits.max_wait_s)
    if now.max_awake_models is not None:
        text = "Most models that may be awake (pool.max_awake_models)."
        yield _one("arena_awake_models_limit", text, now.max_awake_models)


def _devices(devices: Sequence[DeviceView]) -> Iterator[Metric]:
    def each(name: str, text: str, value: Callable[[DeviceView], float | None]) -> Metric:
        return _gauge(name, text, ["device"], (([str(d.index)], value(d)) for d in devices))

    yield each(
        "arena_device_budget_bytes", "What the pool may give to engines of the device.", lambda d: d.budget_bytes
    )
    yield each("arena_device_reserved_bytes", "What it has given.", lambda d: d.reserved_bytes)
    yield each(
        "arena_device_outside_bytes", "In use on the device by others than this daemon's engines, where that is known.",
        lambda d: None if d.outside is None else d.outside.bytes,
    )  # fmt: skip
    yield each(
        "arena_device_blocked", "Whether models cannot be loaded as others hold too much of the device (1).",
        lambda d: d.blocked is not None,
    )  # fmt: skip


def _host(now: PoolSummary) -> Iterator[Metric]:
    # As in /admin/pool: without a limit of its own, sleep may take what there is.
    budget = psutil.virtual_memory().total if now.sleep_budget_bytes is None else now.sleep_budget_bytes
    yield _one("arena_sleep_budget_bytes", "Host RAM that sleeping models may take.", budget)
    yield _one("arena_sleep_reserved_bytes", "Host RAM that they have.", now.sleep_reserved_bytes)
    yield _one("arena_stopping", "Whether the daemon is shutting down (1).", now.closing)


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    """Rows without a value are left out: what is not known is not 0."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, float(value))
    return family
