"""What is kept of a model or an alias added at run time. Without SQLAlchemy, which takes half a second to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Kind = Literal["models", "aliases"]

# Of a row whose own cannot be read.
NO_TIME = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model: `settings` are the keys that it would have under `models.NAME` in the file. Times in UTC.

    `fault` says why its row cannot be read, if it cannot; the rest is empty then.
    """

    name: str
    settings: Mapping[str, Any]
    disabled: bool
    created_at: datetime
    updated_at: datetime
    fault: str = ""


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """A name that stands for models, by weight. Times in UTC. `fault` as a model's."""

    name: str
    targets: Mapping[str, float]
    updated_at: datetime
    fault: str = ""


Record = ModelRecord | AliasRecord


@dataclass(frozen=True, slots=True)
class RegistryRecords:
    """All of them, oldest first."""

    models: Sequence[ModelRecord] = ()
    aliases: Sequence[AliasRecord] = ()
