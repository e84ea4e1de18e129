"""Model folders for tests: a configuration, and safetensors files that are all header."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arena_server.plan.safetensors import Tensor
from tests.plan.shapes import checkpoint

CONFIGS = Path(__file__).parent / "configs"
PUBLISHED = sorted(file.stem for file in CONFIGS.glob("*.json"))


def published(name: str) -> dict[str, Any]:
    """A fixture: `config`, `total_size` and where they are from."""
    found: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return found


def header(tensors: Sequence[Tensor]) -> bytes:
    """A safetensors file without its data, which nobody reads."""
    entries, at = {}, 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [at, at + tensor.size_bytes],
        }
        at += tensor.size_bytes
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def model_folder(
    folder: Path, config: Mapping[str, Any], tensors: Sequence[Tensor] | None = None, shards: int = 2
) -> Path:
    """Write a model of that configuration, in several shards with an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = checkpoint(config) if tensors is None else tensors
    weight_map: dict[str, str] = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = tensors[i::shards]
        (folder / file).write_bytes(header(part))
        weight_map |= {tensor.name: file for tensor in part}
    total = sum(tensor.size_bytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def published_folder(folder: Path, name: str) -> Path:
    """A folder for one of `PUBLISHED` that has a `total_size`."""
    return model_folder(folder, published(name)["config"])
