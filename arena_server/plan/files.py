"""Which of a model's files vLLM reads. Pure.

After vLLM 0.32's `model_executor/model_loader/default_loader.py` (`_prepare_weights`) and `weight_utils.py`: one format
of weights, the first of those below that is there; of several safetensors files only those that their index names, as
some models come in shards and once more in one piece.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatch
from types import MappingProxyType
from typing import Any

INDEX = "model.safetensors.index.json"
CONSOLIDATED_INDEX = "consolidated.safetensors.index.json"
CONSOLIDATED = "consolidated*.safetensors"

# By `load_format`; "auto" is Mistral's own format where that is there.
PATTERNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "auto": (CONSOLIDATED, "*.safetensors", "*.bin", "*.pt"),
        "hf": ("*.safetensors", "*.bin", "*.pt"),
        "safetensors": ("*.safetensors",),
        "fastsafetensors": ("*.safetensors",),
        "instanttensor": ("*.safetensors",),
        "runai_streamer": ("*.safetensors",),
        "mistral": (CONSOLIDATED,),
        "bitsandbytes": ("*.safetensors", "*.bin", "*.pt"),
        "pt": ("*.pt",),
        "npcache": ("*.bin",),
        "dummy": (),
    }
)
NOT_WEIGHTS = frozenset(
    ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "trainer_state.json")
)
# Configuration, tokenizer, chat template, and code for `trust_remote_code`.
BESIDE = ("*.json", "*.jsonl", "*.txt", "*.model", "*.tiktoken", "*.spm", "*.jinja", "*.py", "*.yaml")
# What some models also have in folders of their own, in other formats.
OTHER_FOLDERS = ("original/", "onnx/", "openvino/", "gguf/", "metal/", "coreml/", "flax/", ".", "figures/", "assets/")


def index_file(names: Collection[str], load_format: str) -> str | None:
    """The index to be read before `weight_files` can tell; None if none is needed."""
    pattern = _pattern(names, load_format)
    wanted = CONSOLIDATED_INDEX if pattern == CONSOLIDATED else INDEX
    return wanted if pattern is not None and pattern.endswith(".safetensors") and wanted in names else None


def indexed_files(index: Mapping[str, Any]) -> set[str]:
    """The files that an index names; none if it is not one."""
    weight_map = index.get("weight_map")
    return {str(file) for file in weight_map.values()} if isinstance(weight_map, Mapping) else set()


def weight_files(names: Collection[str], load_format: str, indexed: Collection[str] = ()) -> list[str]:
    """The weights among a model's file names; `indexed` are those that the index names, if there is one."""
    pattern = _pattern(names, load_format)
    if pattern is None:
        return []
    found = [name for name in names if _is_weight(name, pattern)]
    return sorted(name for name in found if not indexed or name in indexed)


def beside_files(names: Iterable[str]) -> list[str]:
    """What is needed beside the weights."""
    return sorted(
        name
        for name in names
        if any(fnmatch(name, pattern) for pattern in BESIDE)
        and not name.startswith(OTHER_FOLDERS)
        and name not in NOT_WEIGHTS
    )


def _pattern(names: Collection[str], load_format: str) -> str | None:
    for pattern in PATTERNS.get(load_format, PATTERNS["auto"]):
        if any(_is_weight(name, pattern) for name in names):
            return pattern
    return None


def _is_weight(name: str, pattern: str) -> bool:
    return "/" not in name and fnmatch(name, pattern) and name not in NOT_WEIGHTS
