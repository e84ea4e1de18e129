"""Which of a model's layers attend to everything, to a window, or keep something else. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class NotUnderstood(Exception):
    """The configuration is of a form not known here; the text is the reason."""


class Reach(StrEnum):
    """How far back a layer attends, which is what it must keep."""

    FULL = "full"
    WINDOW = "window"  # the last `tokens`
    CHUNK = "chunk"  # the chunk of `tokens` that the token is in


@dataclass(frozen=True, slots=True)
class Layer:
    """One kind of attention layer; `tokens` is the size of its window or chunk, 0 where it has none."""

    reach: Reach
    tokens: int = 0


FULL = Layer(Reach.FULL)
Kinds = list[Layer | None]  # None: no attention layer (Mamba, linear attention, convolution)

SIGNS_OF_STATE = (
    *("mamba_d_state", "mamba_d_conv", "mamba_expand", "ssm_cfg", "ssm_state_size", "conv_kernel"),
    *("linear_num_value_heads", "linear_attn_config", "layers_block_type", "block_types", "conv_L_cache"),
)
# All of their layers have the window, if there is one.
WINDOW_EVERYWHERE = frozenset(
    ["mistral", "mixtral", "phi3", "phimoe", "starcoder2", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "ministral"]
)


def layer_kinds(text: Mapping[str, Any], model_type: str, count: int) -> tuple[Kinds, list[str]]:
    """Each layer's kind, first to last, and notes on what is an estimate only. Raises NotUnderstood."""
    window = _window(text)
    found = _listed(text, window) or _hybrid(text, count) or _patterned(text, model_type, count, window)
    if found is None:
        found = _uniform(text, model_type, count, window)
    kinds = found[:count] + [FULL] * (count - len(found))
    notes = []
    if states := sum(kind is None for kind in kinds):
        notes.append(f"the state of {states} layers without attention is not counted")
    if model_type in ("qwen2", "qwen2_moe") and window and (_int(text, "max_window_layers") or 0) < count:
        notes.append("vLLM may refuse a window over some of the layers")
    return kinds, notes


def _int(text: Mapping[str, Any], key: str) -> int | None:
    value = text.get(key)
    return value if type(value) is int and value > 0 else None


def _window(text: Mapping[str, Any]) -> Layer | None:
    tokens = _int(text, "sliding_window") or _int(text, "sliding_window_size")
    if tokens is None or text.get("use_sliding_window") is False:
        return None
    return Layer(Reach.WINDOW, tokens)


def _listed(text: Mapping[str, Any], window: Layer | None) -> Kinds | None:
    """By `layer_types`, which newer configurations have."""
    names = text.get("layer_types")
    if not isinstance(names, list) or not names:
        return None
    chunk = Layer(Reach.CHUNK, _int(text, "attention_chunk_size") or 0)
    kinds: Kinds = []
    for name in names:
        if name in ("full_attention", "attention", "global_attention"):
            kinds.append(FULL)
        elif name in ("sliding_attention", "local_attention"):
            kinds.append(window or FULL)
        elif name == "chunked_attention":
            kinds.append(chunk if chunk.tokens else FULL)
        else:
            kinds.append(None)
    return kinds


def _hybrid(text: Mapping[str, Any], count: int) -> Kinds | None:
    """Models that mix attention with other layers; None for all others. Raises NotUnderstood."""
    if every := _int(text, "full_attention_interval"):  # Qwen3-Next
        return [FULL if (i + 1) % every == 0 else None for i in range(count)]
    if every := _int(text, "attn_layer_period"):  # Jamba
        offset = text.get("attn_layer_offset", 0)
        return [FULL if i % every == offset else None for i in range(count)]
    if isinstance(pattern := text.get("hybrid_override_pattern"), str):  # Nemotron-H
        return [FULL if letter == "*" else None for letter in pattern]
    if isinstance(chosen := text.get("attn_layer_indices"), list):  # Bamba
        return [FULL if i in chosen else None for i in range(count)]
    if sign := next((key for key in SIGNS_OF_STATE if text.get(key)), None):
        raise NotUnderstood(f"it mixes attention with layers of another kind (`{sign}`)")
    return None


def _patterned(text: Mapping[str, Any], model_type: str, count: int, window: Layer | None) -> Kinds | None:
    """By a rule that repeats; None where there is none."""
    if model_type in ("llama4", "llama4_text"):
        chunk = Layer(Reach.CHUNK, _int(text, "attention_chunk_size") or 8192)
        return [FULL if (i + 1) % 4 == 0 else chunk for i in range(count)]
    if window is None:
        return None
    if model_type == "gemma2":
        return [window if i % 2 == 0 else FULL for i in range(count)]
    pattern = text.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:  # EXAONE 4: "LLLG"
        return [window if pattern[i % len(pattern)] == "L" else FULL for i in range(count)]
    every = _int(text, "sliding_window_pattern") or {"gemma3_text": 6, "gemma3": 6, "cohere2": 4}.get(model_type)
    return [FULL if (i + 1) % every == 0 else window for i in range(count)] if every else None


def _uniform(text: Mapping[str, Any], model_type: str, count: int, window: Layer | None) -> Kinds:
    if window is None:
        return [FULL] * count
    if model_type not in WINDOW_EVERYWHERE:
        raise NotUnderstood(f"which layers of the architecture {model_type} have its window is not known here")
    return [window] * count
