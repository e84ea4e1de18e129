"""Where a configured model's files come from, by its configuration. Pure, but for the environment it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arena_server.config_model import ModelConfig


@dataclass(frozen=True, slots=True)
class Repository:
    """A model on the hub as an engine would fetch it.

    `cache_dir` is where everything but the weights goes (None: the hub library's own place), `weights_dir` where
    those go.
    """

    id: str
    revision: str | None = None
    cache_dir: Path | None = None
    weights_dir: Path | None = None
    token: str | None = None
    load_format: str = "auto"
    weights: bool = True


def local_path(model: ModelConfig) -> Path | None:
    """Where a local model lies; None if it is one on the hub."""
    path = Path(model.model)
    return path if path.is_absolute() else None


def repository(model: ModelConfig) -> Repository:
    """The hub's repository of a model that is not local."""
    args = model.engine_args
    cache_dir = _cache_dir(model.env)
    download_dir = _text(args, "download_dir")
    token = _text(args, "hf_token") or model.env.get("HF_TOKEN")
    return Repository(
        id=model.model,
        revision=_text(args, "revision"),
        cache_dir=cache_dir,
        weights_dir=Path(download_dir) if download_dir else cache_dir,
        token=token,
        load_format=_text(args, "load_format") or "auto",
    )


def repositories(model: ModelConfig) -> list[Repository]:
    """All that its engine would fetch: its own, its tokenizer's and its draft model's, if they are on the hub."""
    args = model.engine_args
    own = repository(model)
    found = [] if local_path(model) else [own]
    if (tokenizer := _text(args, "tokenizer")) and not _is_path(tokenizer):
        revision = _text(args, "tokenizer_revision")
        found.append(Repository(tokenizer, revision, own.cache_dir, own.cache_dir, own.token, weights=False))
    speculative = args.get("speculative_config")
    if isinstance(speculative, Mapping) and (draft := _text(speculative, "model")) and not _is_path(draft):
        revision = _text(speculative, "revision")
        found.append(Repository(draft, revision, own.cache_dir, own.weights_dir, own.token))
    return list(dict.fromkeys(found))


def _cache_dir(env: Mapping[str, str]) -> Path | None:
    """By the model's own environment, as the hub's library reads it."""
    if cache := env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    return Path(env["HF_HOME"]).expanduser() / "hub" if env.get("HF_HOME") else None


def _text(args: Mapping[str, Any], key: str) -> str | None:
    value = args.get(key)
    return value if isinstance(value, str) and value else None


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or name in ("ngram", "[ngram]")
