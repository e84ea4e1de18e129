"""What lies in a demo model's folder: Hugging Face's layout, as vLLM reads it. For scripts/train_demo_models.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD_DIM = 64
# One key-value head over at most four layers: 2 KiB of cache a token in float32.
KV_HEADS = 1
CONTEXT = 2048
ROPE_THETA = 10000.0

PAD, BOS, SYSTEM, USER, ASSISTANT, END = SPECIAL_TOKENS = (
    "<|pad|>",
    "<|bos|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)

# Roles it does not know (developer, tool) are read as the user's.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% set role = message['role'] if message['role'] in ['system', 'assistant'] else 'user' %}"
    "{{ '<|' + role + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The sizes of one model, with the names of its architecture."""

    name: str
    architecture: str
    model_type: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int

    def special_ids(self) -> dict[str, str]:
        """The keys under which configurations name special tokens, and the tokens."""
        return {"bos_token_id": BOS, "eos_token_id": END, "pad_token_id": PAD}


def render(messages: Sequence[Mapping[str, str]]) -> list[str]:
    """Messages as `CHAT_TEMPLATE` writes them, each as two texts: its role's token, and what is said with its end."""
    return [text for m in messages for text in (f"<|{m['role']}|>", m["content"] + END)]


def config_of(shape: Shape) -> dict[str, Any]:
    """`config.json`, less the ids of the special tokens."""
    return {
        "architectures": [shape.architecture],
        "model_type": shape.model_type,
        # Without a version from 5 on, transformers takes the tokenizer for an old, faulty one of Mistral's.
        "transformers_version": "5.0.0",
        "dtype": "float32",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "sliding_window": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "tie_word_embeddings": True,
    }


def tokenizer_config() -> dict[str, Any]:
    """`tokenizer_config.json`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def save_folder(folder: Path, shape: Shape, tokenizer: Any, tensors: Mapping[str, Any]) -> None:
    """Write a model's folder: `tokenizer` is one of `tokenizers`, the tensors are PyTorch's, by their names."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    ids = {key: tokenizer.token_to_id(token) for key, token in shape.special_ids().items()}
    (folder / "tokenizer.json").write_text(tokenizer.to_str() + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", tokenizer_config())
    write_json(folder / "config.json", config_of(shape) | ids)
    write_json(folder / "generation_config.json", ids)
    (folder / "model.safetensors").write_bytes(save(dict(tensors), metadata={"format": "pt"}))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write it as people read it."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
