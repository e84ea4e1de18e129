"""What one model needs of each of its devices. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from arena_server.config_model import ModelConfig
from arena_server.devices import DeviceInfo
from arena_server.measurements import Measured
from arena_server.plan.architecture import Architecture
from arena_server.plan.card import Card
from arena_server.plan.dtypes import BYTES, kv_bytes, run_dtype
from arena_server.plan.kv_cache import BLOCK_TOKENS, KvCache, entry_bytes
from arena_server.plan.layers import FULL
from arena_server.plan.overhead import Batch, batch, overhead_bytes
from arena_server.plan.stages import Split
from arena_server.plan.weights import Weights, device_bytes

# What a chat model should at least hold at once: 16 conversations of 2,048 tokens.
COMFORTABLE_TOKENS = 32768
# With less context than this a chat model is of little use, so lengths are never cut below it.
LEAST_LENGTH = 2048
# Two steps of the engine overlap (vLLM's async scheduling).
STEPS_IN_FLIGHT = 2
MULTIPLIERS: Mapping[str, int] = MappingProxyType(
    {"k": 10**3, "m": 10**6, "g": 10**9, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
)


@dataclass(frozen=True, slots=True)
class Figure:
    """Bytes on each device, and whether they were measured or are an estimate."""

    bytes: int
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model takes of each device.

    `length` is the context it is configured with (None: not configured; -1: vLLM chooses what fits), `own_length` the
    model's own; `long_allowed` whether it may be longer than that. `cache` is None where its form is not known,
    `fixed_cache_bytes` what `kv_cache_memory_bytes` asks for.
    """

    weights: Figure
    overhead: Figure
    cache: KvCache | None
    own_length: int
    length: int | None
    batch: Batch
    dtype: str
    fixed_cache_bytes: int | None = None
    long_allowed: bool = False

    @property
    def asked_length(self) -> int:
        """The context that is wished for: as configured, if vLLM lets it be so long."""
        if self.length is None or self.length < 0:
            return self.own_length
        return self.length if self.long_allowed else min(self.length, self.own_length)

    @property
    def fixed_bytes(self) -> int:
        """All but the KV cache."""
        return self.weights.bytes + self.overhead.bytes

    def least_bytes(self, length: int) -> int:
        """So that one request of `length` tokens fits."""
        return self.bytes_for(1, length)

    def comfortable_bytes(self, length: int) -> int:
        """So that some conversations fit, or one request of `length` tokens if that is more."""
        return self.bytes_for(max(1, -(-COMFORTABLE_TOKENS // length)), length)

    def most_bytes(self, length: int) -> int:
        """More than this it could not use."""
        return self.bytes_for(self.batch.sequences, length)

    def cache_bytes(self, share_bytes: int) -> int:
        """What is left for the KV cache when it may use that much of a device; negative if it does not fit."""
        return share_bytes - self.fixed_bytes if self.fixed_cache_bytes is None else self.fixed_cache_bytes

    def bytes_for(self, requests: int, length: int) -> int:
        """So that so many requests of `length` tokens fit at once."""
        if self.fixed_cache_bytes is not None:
            return self.fixed_bytes + self.fixed_cache_bytes
        return self.fixed_bytes + (0 if self.cache is None else requests * self.cache.request_bytes(length))


def needs(
    model: ModelConfig, architecture: Architecture | None, weights: Weights, card: Card, measured: Measured
) -> Needs:
    """What the model needs of each device such as `card`, as far as that can be told.

    Without an `architecture` there is no telling what its cache and its batches take.
    """
    args = model.engine_args
    dtype = run_dtype(
        args.get("dtype"),
        architecture.dtype if architecture else "unknown",
        architecture.model_type if architecture else "?",
        card.capability,
    )
    split = Split(_size(args, "tensor_parallel_size"), _size(args, "pipeline_parallel_size"))
    of = batch(args, card.device.total_bytes, card.device.name)
    estimated = device_bytes(weights, architecture, BYTES[dtype], split, _text(args.get("quantization")))
    taken = Figure(measured.weights_bytes, True) if measured.weights_bytes else Figure(estimated)
    eager = args.get("enforce_eager") is True
    rest = overhead_bytes(architecture, of, BYTES[dtype], split.tensor, eager) if architecture else 0
    own_length = architecture.max_len if architecture else LEAST_LENGTH
    return Needs(
        weights=taken,
        overhead=_measured_overhead(model, card.device, measured) or Figure(rest),
        cache=_cache(args, architecture, dtype, split, of) if architecture else None,
        own_length=own_length,
        length=read_length(args.get("max_model_len")),
        batch=of,
        dtype=dtype,
        fixed_cache_bytes=_fixed_cache(args),
        long_allowed=model.env.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1",
    )


def _measured_overhead(model: ModelConfig, device: DeviceInfo, measured: Measured) -> Figure | None:
    """Its share of the device, less the weights and what vLLM found free for its cache in its first good load."""
    if measured.weights_bytes is None or measured.kv_cache_bytes is None:
        return None
    share = int(device.total_bytes * model.gpu_memory_utilization)
    rest = share - measured.weights_bytes - measured.kv_cache_bytes
    return Figure(rest, True) if rest > 0 else None


def _cache(args: Mapping[str, Any], architecture: Architecture, dtype: str, split: Split, of: Batch) -> KvCache | None:
    number_bytes = kv_bytes(args.get("kv_cache_dtype"), dtype)
    if number_bytes is None:
        return None
    layers = dict(architecture.layers)
    if args.get("disable_sliding_window") is True:
        layers = {FULL: sum(layers.values())} if layers else {}
    block = args.get("block_size")
    return KvCache(
        layers={kind: -(-n // split.pipeline) for kind, n in layers.items()},
        entry_bytes=entry_bytes(
            architecture.kv_heads, architecture.head_dim, architecture.latent_dim, number_bytes, split.tensor
        ),
        in_flight=STEPS_IN_FLIGHT * of.tokens,
        block_tokens=block if type(block) is int and block > 0 else BLOCK_TOKENS,
    )


def _size(args: Mapping[str, Any], key: str) -> int:
    value = args.get(key)
    return value if type(value) is int and value > 0 else 1


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _fixed_cache(args: Mapping[str, Any]) -> int | None:
    value = args.get("kv_cache_memory_bytes")
    return read_length(value) if value is not None else None


def read_length(value: object) -> int | None:
    """A number of tokens as vLLM's command line reads it (`8192`, `8k`, `8K`, `auto`); -1: what fits; None: not given.

    What cannot be read counts as not given; vLLM will say what is wrong with it.
    """
    if type(value) is int:
        return value if value > 0 else -1
    if not isinstance(value, str) or not value:
        return None
    text = value.strip()
    if text in ("auto", "-1"):
        return -1
    try:
        return int(float(text[:-1]) * MULTIPLIERS[text[-1]]) if text[-1] in MULTIPLIERS else int(text)
    except ValueError:
        return None
