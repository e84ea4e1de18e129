"""What can be seen of a configured model without loading it: its configuration, and its weights' headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arena_server.config_model import ModelConfig
from arena_server.plan.errors import PlanError
from arena_server.plan.files import index_file, indexed_files, weight_files
from arena_server.plan.hub import Hub, read_json
from arena_server.plan.origin import Repository, local_path, repository
from arena_server.plan.safetensors import Tensor, read_header
from arena_server.plan.weights import Weights

# A tokenizer's repository has at least one of them.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "tekken.json")


@dataclass(frozen=True, slots=True)
class Sight:
    """`config.json`'s mapping (None: there is none), the weights, and where they were seen: `local`, `cache`, `hub`."""

    config: Mapping[str, Any] | None
    weights: Weights
    place: str


def look_at(name: str, model: ModelConfig) -> Sight:
    """See what there is. May wait for the hub. Raises PlanError, of one line with the model's name."""
    load_format = str(model.engine_args.get("load_format") or "auto")
    path = local_path(model)
    if path is not None:
        if not path.exists():
            raise PlanError(f"{name}: {path}: there is nothing (check `model`)")
        return _on_disk(name, path, load_format, "local")
    return _on_hub(name, repository(model))


def _on_disk(name: str, path: Path, load_format: str, place: str) -> Sight:
    if path.is_file():  # GGUF
        return Sight(None, Weights(path.stat().st_size), place)
    config = path / "config.json"
    if not config.is_file():
        raise PlanError(f"{name}: {path}: has no config.json (is it a model's folder?)")
    weights = _weights_in(path, load_format)
    if weights is None:
        raise PlanError(f"{name}: {path}: has no weights that vLLM reads, or not all that its index names")
    return Sight(read_json(config), weights, place)


def _weights_in(folder: Path, load_format: str) -> Weights | None:
    """The weights in a folder; None if there are none, or not all."""
    names = {file.name for file in folder.iterdir() if file.is_file()}
    index = index_file(names, load_format)
    contents = read_json(folder / index) if index else {}
    indexed = indexed_files(contents)
    files = weight_files(names, load_format, indexed)
    if load_format == "dummy":
        return _from_index(contents)
    if not files or not indexed <= set(files):
        return None
    if not all(file.endswith(".safetensors") for file in files):
        return Weights(sum((folder / file).stat().st_size for file in files))
    tensors = [tensor for file in files for tensor in read_header(folder / file)]
    return _of(tensors)


def _from_index(contents: Mapping[str, Any]) -> Weights | None:
    metadata = contents.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    return Weights(int(total)) if isinstance(total, int | float) else None


def _of(tensors: list[Tensor]) -> Weights:
    return Weights(sum(tensor.size_bytes for tensor in tensors), tensors)


def in_cache(repository: Repository) -> Sight | None:
    """What the hub library's cache has of a model; None if that is not all of its weights and its configuration."""
    config = _cached(repository, "config.json", repository.cache_dir)
    weights = None
    for folder in {path.parent for path in (config, _cached_weights(repository)) if path is not None}:
        weights = weights or _weights_in(folder, repository.load_format)
    return None if config is None or weights is None else Sight(read_json(config), weights, "cache")


def is_whole(repository: Repository) -> bool:
    """Whether that cache has enough of it for an engine to start without a hub."""
    if repository.weights:
        return in_cache(repository) is not None
    return any(_cached(repository, file, repository.cache_dir) is not None for file in TOKENIZERS)


def _on_hub(name: str, repository: Repository) -> Sight:
    if (cached := in_cache(repository)) is not None:
        return cached
    hub = Hub(name, repository)
    contents = hub.json("config.json") if "config.json" in hub.files() else None
    tensors = hub.tensors()
    weights = _of(tensors) if tensors else Weights(hub.weight_bytes())
    if not weights.checkpoint_bytes:
        raise PlanError(f"{name}: `{repository.id}` has no weights that vLLM reads")
    return Sight(contents, weights, "hub")


def _cached_weights(repository: Repository) -> Path | None:
    """A file of the folder in the cache that may have the weights."""
    for file in ("model.safetensors.index.json", "model.safetensors", "consolidated.safetensors"):
        if (path := _cached(repository, file, repository.weights_dir)) is not None:
            return path
    return None


def _cached(repository: Repository, file: str, cache_dir: Path | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository.id, file, cache_dir=cache_dir, revision=repository.revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
