"""Where the hub's library keeps files: below a folder for each model, `blobs` (by hash) and `snapshots` (links)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arena_server.plan.origin import Repository


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to be had: `size` in bytes, `blob` the name of its contents in the cache (a hash; of weights SHA-256)."""

    file: str
    size: int
    blob: str | None


def cache_dir(repository: Repository) -> Path:
    """The cache its weights go to, made if need be. Raises OSError."""
    from huggingface_hub import constants

    place = Path(repository.weights_dir or constants.HF_HUB_CACHE).expanduser()
    place.mkdir(parents=True, exist_ok=True)
    return place


def cache_of(repository: Repository) -> Path:
    """The same, of which the nearest existing parent if it is not there yet."""
    from huggingface_hub import constants

    place = Path(repository.weights_dir or constants.HF_HUB_CACHE).expanduser().absolute()
    return next(folder for folder in (place, *place.parents) if folder.is_dir())


def model_dir(repository: Repository) -> Path:
    """Its own folder in there."""
    return cache_dir(repository) / _folder_name(repository)


def partial_path(repository: Repository, wanted: Wanted) -> Path:
    """Where an interrupted run leaves what it has of a file. (The library called it so while it still resumed.)"""
    return cache_of(repository) / _folder_name(repository) / "blobs" / f"{wanted.blob}.incomplete"


def partial_bytes(repository: Repository, wanted: Wanted) -> int:
    """How much of a file an interrupted run has left."""
    if wanted.blob is None:
        return 0
    try:
        return min(partial_path(repository, wanted).stat().st_size, wanted.size)
    except OSError:
        return 0


def cached(repository: Repository, wanted: Wanted, commit: str, folder: Path | None) -> bool:
    """Whether the file is in the cache, for this commit or, with the same contents, another: then a link will do."""
    from huggingface_hub import constants, try_to_load_from_cache

    root = Path(folder or constants.HF_HUB_CACHE).expanduser()
    if wanted.blob and (root / _folder_name(repository) / "blobs" / wanted.blob).is_file():
        return True
    found = try_to_load_from_cache(repository.id, wanted.file, cache_dir=folder, revision=commit)
    return isinstance(found, str)


def _folder_name(repository: Repository) -> str:
    from huggingface_hub.file_download import repo_folder_name

    return str(repo_folder_name(repo_id=repository.id, repo_type="model"))
