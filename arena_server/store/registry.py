"""What is done with the tables of models and aliases, each within a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection, Text, cast, select

from arena_server.store.registry_record import NO_TIME, AliasRecord, Kind, ModelRecord, Record, RegistryRecords
from arena_server.store.schema import aliases, models


def list_records(connection: Connection) -> RegistryRecords:
    """All of them, oldest first. One that somebody has spoilt by hand has its `fault`, and hides no other."""
    of_models = connection.scalars(select(models.c.name).order_by(models.c.created_at, models.c.name)).all()
    of_aliases = connection.scalars(select(aliases.c.name).order_by(aliases.c.name)).all()
    return RegistryRecords(
        [_model(connection, name) for name in of_models], [_alias(connection, name) for name in of_aliases]
    )


def put(connection: Connection, kind: Kind, name: str, record: Record | None) -> None:
    """Keep a model or an alias in place of what is kept under its name; None: nothing any more."""
    table = models if kind == "models" else aliases
    connection.execute(table.delete().where(table.c.name == name))
    if record is not None:
        connection.execute(table.insert().values({column.name: getattr(record, column.name) for column in table.c}))


def _model(connection: Connection, name: str) -> ModelRecord:
    fields = models.c
    row = select(cast(fields.settings, Text), fields.disabled, fields.created_at, fields.updated_at)
    try:
        settings, *others = connection.execute(row.where(fields.name == name)).one()
        return ModelRecord(name, _mapping("settings", settings), *others)
    except (ValueError, TypeError) as e:
        return ModelRecord(name, {}, False, NO_TIME, NO_TIME, _reason(e))


def _alias(connection: Connection, name: str) -> AliasRecord:
    row = select(cast(aliases.c.targets, Text), aliases.c.updated_at)
    try:
        targets, updated_at = connection.execute(row.where(aliases.c.name == name)).one()
        return AliasRecord(name, _weights(_mapping("targets", targets)), updated_at)
    except (ValueError, TypeError) as e:
        return AliasRecord(name, {}, NO_TIME, _reason(e))


def _mapping(column: str, text: str) -> dict[str, Any]:
    """Raises ValueError for what could not be shown as JSON again either: NaN, halves of surrogate pairs."""
    try:
        found = from_json(text, allow_inf_nan=False)
    except ValueError as e:
        raise ValueError(f"`{column}` is no JSON: {e}") from None
    if not isinstance(found, dict):
        raise ValueError(f"`{column}` is no object")
    return found


def _weights(targets: Mapping[str, Any]) -> Mapping[str, float]:
    if not all(isinstance(weight, int | float) for weight in targets.values()):
        raise ValueError("`targets` has a weight that is no number")
    return targets


def _reason(error: Exception) -> str:
    return f"its row in the database cannot be read: {error} (remove it, or set it anew)"
