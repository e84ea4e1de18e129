"""The tensors of a checkpoint, made from its configuration as the models' own code makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from arena_server.plan.safetensors import Tensor

AWQ_GROUP = 128


def checkpoint(config: Mapping[str, Any]) -> list[Tensor]:
    """Of a model of the families in `tests/plan/configs`."""
    of = config["model_type"]
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    found = [_float("model.embed_tokens.weight", vocab, hidden), _float("model.norm.weight", hidden)]
    if not config.get("tie_word_embeddings", of.startswith("gemma")):
        found.append(_float("lm_head.weight", vocab, hidden))
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        found += _mla(layer, config) if of == "deepseek_v2" else _attention(layer, config)
        found += _experts(layer, config) if of == "deepseek_v2" and i >= 1 else _dense(layer, config)
        found += [_float(f"{layer}.{name}.weight", hidden) for name in _norms(of)]
    return found


def _norms(of: str) -> list[str]:
    names = ["input_layernorm", "post_attention_layernorm"]
    return [*names, "pre_feedforward_layernorm", "post_feedforward_layernorm"] if of == "gemma2" else names


def _attention(layer: str, config: Mapping[str, Any]) -> Iterator[Tensor]:
    hidden, heads, kv_heads = (config[f"{k}"] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    size = config.get("head_dim") or hidden // heads
    for name, out in (("q", heads * size), ("k", kv_heads * size), ("v", kv_heads * size)):
        yield from _linear(f"{layer}.self_attn.{name}_proj", out, hidden, config)
        if config["model_type"] == "qwen2":
            yield _float(f"{layer}.self_attn.{name}_proj.bias", out)
    yield from _linear(f"{layer}.self_attn.o_proj", hidden, heads * size, config)


def _mla(layer: str, config: Mapping[str, Any]) -> Iterator[Tensor]:
    hidden, heads, rank = (config[k] for k in ("hidden_size", "num_attention_heads", "kv_lora_rank"))
    rope, nope, value = (config[k] for k in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"))
    here = f"{layer}.self_attn"
    yield _float(f"{here}.q_proj.weight", heads * (rope + nope), hidden)
    yield _float(f"{here}.kv_a_proj_with_mqa.weight", rank + rope, hidden)
    yield _float(f"{here}.kv_a_layernorm.weight", rank)
    yield _float(f"{here}.kv_b_proj.weight", heads * (nope + value), rank)
    yield _float(f"{here}.o_proj.weight", hidden, heads * value)


def _dense(layer: str, config: Mapping[str, Any]) -> Iterator[Tensor]:
    yield from _mlp(f"{layer}.mlp", config["intermediate_size"], config)


def _experts(layer: str, config: Mapping[str, Any]) -> Iterator[Tensor]:
    width = config["moe_intermediate_size"]
    yield _float(f"{layer}.mlp.gate.weight", config["n_routed_experts"], config["hidden_size"])
    for i in range(config["n_routed_experts"]):
        yield from _mlp(f"{layer}.mlp.experts.{i}", width, config)
    yield from _mlp(f"{layer}.mlp.shared_experts", width * config["n_shared_experts"], config)


def _mlp(here: str, width: int, config: Mapping[str, Any]) -> Iterator[Tensor]:
    hidden = config["hidden_size"]
    for name, out, into in (("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)):
        yield from _linear(f"{here}.{name}_proj", out, into, config)


def _linear(name: str, out: int, into: int, config: Mapping[str, Any]) -> Iterator[Tensor]:
    if config.get("quantization_config", {}).get("quant_method") != "awq":
        yield _float(f"{name}.weight", out, into)
        return
    # AutoAWQ's "gemm": eight 4-bit weights in an int32.
    yield Tensor(f"{name}.qweight", "I32", (into, out // 8))
    yield Tensor(f"{name}.qzeros", "I32", (into // AWQ_GROUP, out // 8))
    yield Tensor(f"{name}.scales", "F16", (into // AWQ_GROUP, out))


def _float(name: str, *shape: int) -> Tensor:
    return Tensor(name, "BF16", shape)
