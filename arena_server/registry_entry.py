"""A model or an alias, as operators see it: what it is set to, where that stands, and what has become of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic_core import from_json

from arena_server.composition import State
from arena_server.config import Config
from arena_server.config_file import Key
from arena_server.config_model import ModelConfig

Source = Literal["file", "registry"]

# In the names of an engine's variables, which programs of all kinds look for: rather one too many.
SECRET_VARIABLE = re.compile(r"key|token(?!iz)|secret|passw|credential|auth", re.IGNORECASE)
# In the names of arguments and of what is nested in them, word by word: `hf_token`, `api-key`, `apiKey`; but neither
# `tokenizer`, `max_num_batched_tokens` nor `eos_token_id`.
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
SECRET_WORDS = frozenset(
    {"secret", "secrets", "password", "passwd", "passphrase", "credential", "credentials", "apikey"}
)
SECRET_LAST_WORDS = SECRET_WORDS | {"key", "keys", "token", "pass", "pwd", "auth", "authorization"}
# A user's password in a URL, anywhere.
SECRET_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")
HIDDEN = "(hidden)"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model; `settings` are those that were given, by the names of `models.NAME` in the file. Times in UTC."""

    name: str
    source: Source
    state: State
    errors: tuple[str, ...]
    settings: Mapping[str, Any]
    created_at: datetime | None = None
    updated_at: datetime | None = None

    def shown(self) -> dict[str, Any]:
        """As JSON, without what is secret."""
        return {
            "name": self.name,
            "source": self.source,
            "state": self.state.value,
            "errors": list(self.errors),
            "settings": without_secrets(self.settings),
            "created_at": _text(self.created_at),
            "updated_at": _text(self.updated_at),
        }


@dataclass(frozen=True, slots=True)
class AliasEntry:
    """An alias, and how it is split. Times in UTC."""

    name: str
    source: Source
    state: State
    errors: tuple[str, ...]
    targets: Mapping[str, float]
    updated_at: datetime | None = None

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "state": self.state.value,
            "errors": list(self.errors),
            "targets": dict(self.targets),
            "updated_at": _text(self.updated_at),
        }


def of_file(name: str, model: ModelConfig) -> ModelEntry:
    """A model that stands in the file."""
    given = {key: _plain(value) for key, value in model.model_dump(exclude_unset=True).items()}
    return ModelEntry(name, "file", State.ACTIVE, (), given)


def of_files_aliases(file: Config) -> list[AliasEntry]:
    """The aliases that stand in the file, on their own."""
    return [AliasEntry(name, "file", State.ACTIVE, (), targets) for name, targets in file.aliases.items()]


def without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model as they may be shown."""
    shown = dict(settings)
    if isinstance(env := shown.get("env"), Mapping):
        shown["env"] = {
            name: HIDDEN if SECRET_VARIABLE.search(name) else _without_secrets(value) for name, value in env.items()
        }
    if "engine_args" in shown:
        shown["engine_args"] = _without_secrets(shown["engine_args"])
    return shown


def hidden_values(settings: Mapping[str, Any]) -> Iterator[tuple[Key, ...]]:
    """Where settings that are given have what stands in a secret's place: somebody sends back what was shown."""
    for key in ("env", "engine_args"):
        yield from _hidden_values((key,), settings.get(key))


def _hidden_values(where: tuple[Key, ...], value: object) -> Iterator[tuple[Key, ...]]:
    if value == HIDDEN:
        yield where
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _hidden_values((*where, key), inner)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _hidden_values((*where, i), inner)


def _without_secrets(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: HIDDEN if _is_secret(key) else _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(inner) for inner in value]
    if isinstance(value, str) and (SECRET_URL.search(value) or _has_secret(value)):
        return HIDDEN
    return value


def _is_secret(name: str) -> bool:
    words = [word.lower() for word in WORDS.findall(name)]
    return bool(words) and (words[-1] in SECRET_LAST_WORDS or not SECRET_WORDS.isdisjoint(words))


def _has_secret(text: str) -> bool:
    """Whether it is JSON with a secret in it: vLLM takes such arguments as text, too."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        value = from_json(text)
    except ValueError:
        return False
    return bool(_without_secrets(value) != value)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    return list(value) if isinstance(value, tuple) else value


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
