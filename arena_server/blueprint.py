"""What a pool is made of, worked out from a configuration, the machine's devices and what was measured before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import psutil

from arena_server.config import Config
from arena_server.config_devices import check_devices
from arena_server.config_model import ModelConfig
from arena_server.engine.command import sleep_level
from arena_server.gpu.probe import MemoryProbe
from arena_server.measurements import Measured, MeasurementStore, measurement_key
from arena_server.pool.events import Limits, ModelSpec
from arena_server.pool.ledger import Budget
from arena_server.pool.records import times_of
from arena_server.pool.transitions import sleep_host_bytes

# What an engine is taken to keep on each GPU while it sleeps (its CUDA context and graphs), until that was measured.
UNMEASURED_ASLEEP_BYTES = 2 << 30

# What of a model's configuration its engine does not depend on.
NOT_THE_ENGINES = frozenset(
    {"aliases", "display_name", "fallback", "idle_ttl_s", "input_cost", "output_cost", "pinned", "preload"}
)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A configuration on a machine. `homes` are each model's device indices, `keys` those of its measurements."""

    config: Config
    homes: Mapping[str, tuple[int, ...]]
    keys: Mapping[str, str]
    specs: Sequence[ModelSpec]
    budget: Budget
    limits: Limits
    reserve_bytes: Mapping[int, int]

    def same_engine(self, name: str, other: Blueprint) -> bool:
        """Whether a model's engine is the same in both."""
        if name not in self.homes or name not in other.homes or self.homes[name] != other.homes[name]:
            return False
        return engine_part(self.config.models[name]) == engine_part(other.config.models[name])


def engine_part(model: ModelConfig) -> dict[str, object]:
    """What of a model's configuration its engine depends on."""
    return model.model_dump(exclude=set(NOT_THE_ENGINES))


def draw_blueprint(
    config: Config,
    probe: MemoryProbe,
    store: MeasurementStore,
    vllm_version: str,
    keep: Mapping[str, tuple[int, ...]] | None = None,
) -> Blueprint:
    """The blueprint of a configuration on the probe's devices.

    Models in `keep` stay on those devices if their configuration lets them. Raises ConfigError, with a line for each
    thing that does not fit.
    """
    homes = check_devices(config, probe.devices, keep)
    devices = {device.index: device for device in probe.devices}
    keys = {
        name: measurement_key(model, [devices[i] for i in homes[name]], vllm_version)
        for name, model in config.models.items()
    }
    sizes = {index: device.total_bytes for index, device in devices.items()}
    specs = [
        _spec(name, model, {device: sizes[device] for device in homes[name]}, probe.gpu, store.get(keys[name]))
        for name, model in config.models.items()
    ]
    pool = config.pool
    # Rounded up, so that fractions which fill the budget exactly do not fail by a byte.
    budget_bytes = {index: int(size * (1 - pool.memory_reserve)) + len(specs) for index, size in sizes.items()}
    host_bytes = psutil.virtual_memory().total // 2 if pool.sleep_memory_bytes is None else pool.sleep_memory_bytes
    return Blueprint(
        config=config,
        homes=homes,
        keys=keys,
        specs=specs,
        budget=Budget(budget_bytes, pool.max_awake_models, host_bytes),
        limits=Limits(pool.max_queue, pool.max_wait_s, pool.patience_s),
        reserve_bytes={index: int(size * pool.memory_reserve) for index, size in sizes.items()},
    )


def _spec(name: str, model: ModelConfig, sizes: Mapping[int, int], gpu: bool, measured: Measured) -> ModelSpec:
    """`sizes` are the total bytes of the model's devices."""
    if model.remote:
        return ModelSpec(name, {}, times=times_of(measured))  # nothing of it is here
    footprint = {device: int(size * model.gpu_memory_utilization) for device, size in sizes.items()}
    if not gpu:
        asleep = footprint  # vLLM's sleep frees nothing there
    elif measured.asleep_bytes.keys() == footprint.keys():
        asleep = dict(measured.asleep_bytes)
    else:
        asleep = {device: min(n, UNMEASURED_ASLEEP_BYTES) for device, n in footprint.items()}
    spec = ModelSpec(
        name,
        footprint,
        pinned=model.pinned,
        idle_ttl_s=model.idle_ttl_s,
        sleep_level=sleep_level(model, gpu=gpu),
        asleep=asleep,
        times=times_of(measured),
    )
    # Its weights are no more than what it may use; once it was loaded they are known.
    weights = measured.weights_bytes or max(footprint.values())
    host_bytes = sleep_host_bytes(spec, weights) if gpu else 0
    return replace(spec, host_bytes=host_bytes or 0)
