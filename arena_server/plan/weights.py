"""How much memory a checkpoint's weights take once they are loaded. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from arena_server.plan.architecture import Architecture
from arena_server.plan.safetensors import Tensor
from arena_server.plan.stages import EMBEDDING, HEAD, LAYER, Split, largest_stage, rough_stage

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
KEYS_OR_VALUES = re.compile(r"\.(?:k_proj|v_proj|key|value)\.")
LATENT = re.compile(r"\.(?:kv_a_proj_with_mqa|q_a_proj|kv_a_layernorm|gate)\.")

# Of the weights in layers; what the other numbers (scales, zero points) take beside them is in it.
FP8_BYTES = 1.0
FOUR_BIT_BYTES = 0.5 + (2 + 0.5) / 128  # AWQ, group size 128: a 16-bit scale and a 4-bit zero point for each group


@dataclass(frozen=True, slots=True)
class Weights:
    """What is known of a checkpoint: its size in files, and its tensors where their headers could be read."""

    checkpoint_bytes: int
    tensors: Sequence[Tensor] = ()


def device_bytes(
    weights: Weights, architecture: Architecture | None, float_bytes: int, split: Split, online: str | None = None
) -> int:
    """Bytes of weights on each device; on the one with the most, where these differ.

    Numbers of an unquantised checkpoint are loaded in the format the model runs in, of `float_bytes` each, whatever
    the files have; those of a quantised one as they are. `online` is vLLM's argument `quantization` for an unquantised
    checkpoint. Without tensors all layers are taken to be of one size.
    """
    quantised = architecture is not None and architecture.quantisation is not None
    if not weights.tensors:
        factor = 1.0 if quantised or online is None else _online_bytes(online, float_bytes) / float_bytes
        return rough_stage(weights.checkpoint_bytes * factor, architecture, float_bytes, split)
    sizes: list[tuple[str, float]] = []
    for tensor in loaded(weights.tensors, architecture):
        size: float = tensor.size_bytes
        if not quantised and tensor.dtype in FLOATS:
            in_layers = online is not None and is_matrix(tensor)
            size = tensor.count * (_online_bytes(online, float_bytes) if in_layers else float_bytes)
        sizes.append((tensor.name, size / _parts(tensor, architecture, split.tensor)))
    return largest_stage(sizes, architecture, split.pipeline)


def loaded(tensors: Sequence[Tensor], architecture: Architecture | None) -> list[Tensor]:
    """Those that vLLM keeps: not a copy of the embedding, nor layers behind the last (for speculation)."""
    kept = []
    has_embedding = any(EMBEDDING.search(t.name) and not HEAD.search(t.name) for t in tensors)
    for tensor in tensors:
        layer = LAYER.search(tensor.name)
        behind = architecture is not None and layer is not None and int(layer[1]) >= architecture.layer_count
        # Vision towers count their layers on their own.
        if behind and "vis" not in tensor.name:
            continue
        if architecture is not None and architecture.tied and has_embedding and HEAD.search(tensor.name):
            continue
        kept.append(tensor)
    return kept


def is_matrix(tensor: Tensor) -> bool:
    """Whether quantising would make it smaller: the layers' matrices, not the embedding, the head and the norms."""
    return len(tensor.shape) >= 2 and not EMBEDDING.search(tensor.name)


def quantised_bytes(
    weights: Weights, architecture: Architecture, float_bytes: int, split: Split, per_weight: float
) -> int | None:
    """What the weights would take on each device with `per_weight` bytes for each number of the layers' matrices.

    None for a checkpoint that is quantised already.
    """
    if architecture.quantisation is not None:
        return None
    if weights.tensors:
        sizes: list[tuple[str, float]] = []
        for tensor in loaded(weights.tensors, architecture):
            each = per_weight if is_matrix(tensor) else float_bytes
            sizes.append((tensor.name, tensor.count * each / _parts(tensor, architecture, split.tensor)))
        return largest_stage(sizes, architecture, split.pipeline)
    tables = architecture.vocab_size * architecture.hidden_size * (1 if architecture.tied else 2) * float_bytes
    matrices = max(weights.checkpoint_bytes - tables, 0)
    return rough_stage(tables + matrices * per_weight / float_bytes, architecture, float_bytes, split)


def _online_bytes(method: str | None, float_bytes: int) -> float:
    name = (method or "").lower()
    if name.startswith(("fp8", "int8", "experts_int8", "mxfp8")):
        return FP8_BYTES
    if name in ("bitsandbytes", "mxfp4", "nvfp4"):
        return FOUR_BIT_BYTES
    return float_bytes


def _parts(tensor: Tensor, architecture: Architecture | None, tensor_parallel: int) -> int:
    """Over how many devices it is split: norms and MLA's entrances are whole on each, keys' heads at least one."""
    if tensor_parallel == 1 or len(tensor.shape) < 2 or LATENT.search(tensor.name):
        return 1
    if architecture is not None and KEYS_OR_VALUES.search(tensor.name) and not architecture.latent_dim:
        return min(tensor_parallel, architecture.kv_heads)
    return tensor_parallel
