"""A model's `config.json` as far as memory goes: its attention layers and its sizes. Pure.

Keys are read as vLLM 0.32 reads them (`transformers_utils/model_arch_config_convertor.py` and the models' own files).
What is not known is refused or marked, never guessed: a wrong number is worse than none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from arena_server.plan.layers import Layer, NotUnderstood, layer_kinds

# Where configurations leave out what Transformers fills in (Gemma 3's larger models do).
DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "gemma3_text": {
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131072,
            "vocab_size": 262208,
            "tie_word_embeddings": True,
        },
        "gemma2": {"head_dim": 256, "tie_word_embeddings": True},
        "gemma": {"tie_word_embeddings": True},
        "cohere2": {"tie_word_embeddings": True},
    }
)
NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
# vLLM uses the compressed cache for these, if they have a `kv_lora_rank`.
MLA_TYPES = frozenset(
    [
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "kimi_k2",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "longcat_flash",
        "pangu_ultra_moe",
    ]
)
ENCODERS = frozenset(
    ["bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "nomic_bert", "mpnet", "gte", "new"]
)
# Layers that keep a state of another form, or a second cache beside the usual one.
STRANGE = frozenset(("mamba", "mamba2", "falcon_mamba", "rwkv", "deepseek_v4", "t5", "bart", "whisper", "mbart"))
LENGTH_KEYS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len"),
)
# These say the length with scaling already in it.
SCALED_ALREADY = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "default", "mrope"})
DEFAULT_LENGTH = 2048  # vLLM's, where the configuration does not tell


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's shape.

    `layers` counts its attention layers by kind; `latent_dim` is the size of MLA's compressed entry (0: keys and
    values are kept whole). `intermediate_size` is what a token goes through in its widest layer (of several experts
    together). `max_len` is its own context in tokens. `notes` say why a number is an estimate only.
    """

    model_type: str
    layer_count: int
    layers: Mapping[Layer, int]
    heads: int
    kv_heads: int
    head_dim: int
    latent_dim: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_len: int
    dtype: str
    tied: bool
    quantisation: str | None
    notes: tuple[str, ...] = ()


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """`config.json`'s mapping -> the architecture. Raises NotUnderstood, with the reason for people."""
    text = _text(config)
    model_type = str(text.get("model_type") or config.get("model_type") or "?")
    if model_type in STRANGE or text.get("is_encoder_decoder") or config.get("is_encoder_decoder"):
        raise NotUnderstood(f"the architecture {model_type} keeps more than attention's keys and values")
    count = _whole(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    heads = _whole(text, "num_attention_heads", "n_head", "n_heads")
    hidden = _whole(text, "hidden_size", "n_embd", "d_model")
    kinds, notes = layer_kinds(text, model_type, count)
    layers = Counter(kind for kind in kinds if kind is not None)
    if model_type in ENCODERS:
        layers, notes = Counter(), [*notes, "an encoder: it keeps no KV cache"]
    latent = _latent(text, model_type)
    if text.get("index_topk") is not None:
        notes.append("its index of keys is not counted")
    if text.get("num_kv_shared_layers"):
        notes.append("some of its layers share their cache, which is not counted")
    if text.get("global_head_dim") not in (None, text.get("head_dim")):
        notes.append("its layers have heads of several sizes")
    return Architecture(
        model_type=model_type,
        layer_count=count,
        layers=MappingProxyType(dict(layers)),
        heads=heads,
        kv_heads=_kv_heads(text, heads),
        head_dim=_optional(text, "head_dim") or _optional(text, "hidden_size_per_head") or hidden // heads,
        latent_dim=latent,
        hidden_size=hidden,
        intermediate_size=_intermediate(text, hidden),
        vocab_size=_optional(text, "vocab_size") or 0,
        max_len=own_length(text),
        dtype=_dtype(config, text),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        quantisation=_quantisation(config, text),
        notes=tuple(notes),
    )


def _text(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part of a configuration that has several, with what Transformers fills in."""
    text = dict(config)
    for key in NESTED:
        nested = text.get(key)
        if isinstance(nested, Mapping):
            text = {**nested} if "model_type" in nested else {**nested, "model_type": config.get("model_type")}
            if any(isinstance(text.get(inner), Mapping) for inner in NESTED):
                return _text(text)
            break
    return {**DEFAULTS.get(str(text.get("model_type")), {}), **text}


def _optional(text: Mapping[str, Any], key: str) -> int | None:
    value = text.get(key)
    return value if type(value) is int and value > 0 else None


def _whole(text: Mapping[str, Any], *keys: str) -> int:
    for key in keys:
        if (value := _optional(text, key)) is not None:
            return value
    raise NotUnderstood(f"its config.json has no usable `{keys[0]}`")


def _kv_heads(text: Mapping[str, Any], heads: int) -> int:
    for key in ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups"):
        if (value := _optional(text, key)) is not None:
            return value
    return heads


def _latent(text: Mapping[str, Any], model_type: str) -> int:
    rank = _optional(text, "kv_lora_rank")
    if rank is None:
        return 0
    if model_type not in MLA_TYPES:
        raise NotUnderstood(f"the architecture {model_type} has a compressed cache (MLA) of a form not known here")
    return rank + _whole(text, "qk_rope_head_dim")


def _intermediate(text: Mapping[str, Any], hidden: int) -> int:
    size = (
        _optional(text, "intermediate_size") or _optional(text, "ffn_dim") or _optional(text, "n_inner") or 4 * hidden
    )
    experts = _optional(text, "num_experts_per_tok") or 1
    if of_expert := _optional(text, "moe_intermediate_size"):
        return max(size, experts * of_expert)
    return experts * size


def own_length(text: Mapping[str, Any]) -> int:
    """The context in tokens that vLLM takes by default (its `_get_and_verify_max_len`), tokenizer aside."""
    lengths = [value for key in LENGTH_KEYS if (value := _optional(text, key)) is not None]
    if not lengths:
        return DEFAULT_LENGTH
    rope = text.get("rope_scaling") or text.get("rope_parameters")
    rope = rope if isinstance(rope, Mapping) else {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "longrope" and (short := _optional(text, "original_max_position_embeddings")):
        return short
    factor = rope.get("factor")
    scaled = "gemma3" not in str(text.get("model_type")) and kind not in SCALED_ALREADY
    if scaled and isinstance(factor, int | float) and factor > 0:
        return int(min(lengths) * factor)
    return min(lengths)


def _dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    for place in (config, text):
        for key in ("dtype", "torch_dtype"):
            if isinstance(value := place.get(key), str):
                return value.removeprefix("torch.")
    return "unknown"


def _quantisation(config: Mapping[str, Any], text: Mapping[str, Any]) -> str | None:
    """The method's name, such as `awq`, if the checkpoint is quantised."""
    for place in (config, text):
        for key in ("quantization_config", "compression_config"):
            if isinstance(found := place.get(key), Mapping):
                return str(found.get("quant_method") or "unknown").lower().replace("_", "-")
    return None
