"""Which number formats a model runs in on a card, as vLLM chooses them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from arena_server.plan.card import Capability

BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "float16": 2, "bfloat16": 2})
SAME: Mapping[str, str] = MappingProxyType({"half": "float16", "float": "float32"})
# Below this compute capability there is no bfloat16 (vLLM's platforms/cuda.py).
BFLOAT16_FROM: Capability = (8, 0)
# Ada and Hopper compute in FP8; below, vLLM keeps FP8 weights small and computes in 16 bits.
FP8_FROM: Capability = (8, 9)
# vLLM refuses these in float16 for their numerics (config/model.py, `_FLOAT16_NOT_SUPPORTED_MODELS`).
NOT_IN_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})


def has_bfloat16(capability: Capability | None) -> bool:
    """Whether the card computes in bfloat16; a card that is not known is taken for a recent one."""
    return capability is None or capability >= BFLOAT16_FROM


def run_dtype(asked: object, own: str, model_type: str, capability: Capability | None) -> str:
    """The format the weights are loaded in (vLLM's `_resolve_auto_dtype`).

    `asked` is the argument `dtype`, `own` what the checkpoint says.
    """
    name = str(asked or "auto").lower()
    if name != "auto":
        name = SAME.get(name, name)
        return name if name in BYTES else "bfloat16"
    preferred = ["bfloat16", "float16", "float32"] if has_bfloat16(capability) else ["float16", "float32"]
    possible = [n for n in preferred if not (n == "float16" and model_type in NOT_IN_FLOAT16)]
    if own == "float32":
        return possible[0]
    return own if own in possible else possible[0]


def kv_bytes(asked: object, run: str) -> int | None:
    """Bytes of a number in the KV cache for the argument `kv_cache_dtype`; None for a form not known here."""
    name = str(asked or "auto").lower()
    if name == "auto":
        return BYTES[run]
    if name.startswith("fp8") or name == "int8":
        return 1
    return BYTES.get(SAME.get(name, name))
