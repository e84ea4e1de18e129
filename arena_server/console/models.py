"""`arena-server models`: what is served and what was added, as tables; and changes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from rich.cells import cell_len

from arena_server.console.api import Api, BadAnswer, Refused
from arena_server.console.shape import WrongShape, read
from arena_server.console.words import clean
from arena_server.errors import ConfigError

TITLES = ("NAME", "MODEL", "STATE", "FROM", "MEMORY", "COST IN/OUT", "ALIASES")
ALIAS_TITLES = ("ALIAS", "STANDS FOR", "STATE", "FROM")
GAP = "  "


@dataclass(frozen=True, slots=True)
class ShownModel:
    """A model, as the daemon tells of it. `source` is `file` or `registry`, `settings` are those that were given."""

    name: str
    source: str
    state: str
    errors: tuple[str, ...]
    settings: dict[str, Any]
    created_at: str | None
    updated_at: str | None
    residency: str | None


@dataclass(frozen=True, slots=True)
class ShownAlias:
    """An alias, as the daemon tells of it, with its weights by model."""

    name: str
    source: str
    state: str
    errors: tuple[str, ...]
    targets: dict[str, Any]
    updated_at: str | None


@dataclass(frozen=True, slots=True)
class _Models:
    models: tuple[ShownModel, ...]


@dataclass(frozen=True, slots=True)
class _Model:
    model: ShownModel


@dataclass(frozen=True, slots=True)
class _Aliases:
    aliases: tuple[ShownAlias, ...]


@dataclass(frozen=True, slots=True)
class _Alias:
    alias: ShownAlias


class Registry:
    """The daemon's models and aliases. Raises the errors of `Api`, and ConfigError for what cannot be used."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def models(self) -> tuple[tuple[ShownModel, ...], tuple[ShownAlias, ...], dict[str, Any]]:
        """Models, aliases, and both as the daemon wrote them."""
        models = self.ask("GET", "/admin/models")
        aliases = self.ask("GET", "/admin/aliases")
        return _read(_Models, models).models, _read(_Aliases, aliases).aliases, {**models, **aliases}

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that answers."""
        try:
            return self._api.ask(method, path, body)[1]
        except Refused as e:
            if e.error_code == "invalid_configuration":
                raise ConfigError(e.message.splitlines()) from e
            raise


def list_models(registry: Registry, *, as_json: bool) -> int:
    """Print all models and aliases. Returns the exit status."""
    models, aliases, raw = registry.models()
    if as_json:
        print(json.dumps(raw, indent=2))
        return 0
    for line in table(models):
        print(line)
    if aliases:
        print()
    for line in alias_table(aliases):
        print(line)
    return 0


def show_model(registry: Registry, name: str, *, as_json: bool) -> int:
    """Print one model. Returns the exit status."""
    raw = registry.ask("GET", _path("models", name))
    if as_json:
        print(json.dumps(raw["model"], indent=2))
        return 0
    model = _read(_Model, raw).model
    about = {"name": model.name, "state": _state(model), "from": _from(model.source)}
    about |= {"added": model.created_at, "changed": model.updated_at} if model.created_at else {}
    lines = [*about.items(), *((key, _written(value)) for key, value in model.settings.items())]
    width = max(len(key) for key, _ in lines)
    for key, value in lines:
        print(f"{clean(key):{width}}  {clean(str(value))}")
    for error in model.errors:
        print(f"! {clean(error)}")
    return 0


def add_model(registry: Registry, name: str, settings: Mapping[str, Any]) -> int:
    """Add a model. Returns the exit status."""
    model = _read(_Model, registry.ask("POST", "/admin/models", {**settings, "name": name})).model
    print(f"{clean(model.name)}: added ({_state(model)}); it is loaded when it is first asked for")
    return 0


def set_model(registry: Registry, name: str, patch: Mapping[str, Any]) -> int:
    """Change settings of a model. Returns the exit status."""
    model = _read(_Model, registry.ask("PATCH", _path("models", name), patch)).model
    print(f"{clean(model.name)}: changed ({_state(model)})")
    return 0


def switch_model(registry: Registry, name: str, order: str) -> int:
    """`disable` or `enable` a model. Returns the exit status."""
    model = _read(_Model, registry.ask("POST", f"{_path('models', name)}/{order}")).model
    print(f"{clean(model.name)}: {order}d")
    return 0


def remove_model(registry: Registry, name: str) -> int:
    """Remove a model. Returns the exit status."""
    registry.ask("DELETE", _path("models", name))
    print(f"{clean(name)}: removed; answers that are running end well")
    return 0


def set_alias(registry: Registry, name: str, targets: Mapping[str, float]) -> int:
    """Set an alias. Returns the exit status."""
    alias = _read(_Alias, registry.ask("PUT", _path("aliases", name), {"targets": targets})).alias
    print(f"{clean(alias.name)}: {split(alias.targets)}")
    return 0


def remove_alias(registry: Registry, name: str) -> int:
    """Remove an alias. Returns the exit status."""
    registry.ask("DELETE", _path("aliases", name))
    print(f"{clean(name)}: removed")
    return 0


def table(models: Sequence[ShownModel]) -> list[str]:
    """The models as lines, with what is wrong with one below it."""
    rows = _aligned([TITLES, *(_row(model) for model in models)])
    lines = rows[:1]
    for model, row in zip(models, rows[1:], strict=True):
        lines += [row, *(f"{GAP}! {clean(error)}" for error in model.errors)]
    return lines


def alias_table(aliases: Sequence[ShownAlias]) -> list[str]:
    """The aliases as lines, likewise."""
    if not aliases:
        return []
    found = [(clean(a.name), split(a.targets), a.state, _from(a.source)) for a in aliases]
    rows = _aligned([ALIAS_TITLES, *found])
    lines = rows[:1]
    for alias, row in zip(aliases, rows[1:], strict=True):
        lines += [row, *(f"{GAP}! {clean(error)}" for error in alias.errors)]
    return lines


def split(targets: Mapping[str, Any]) -> str:
    """How an alias is split, in percent where it is."""
    total = sum(targets.values())
    if len(targets) == 1 or not total:
        return ", ".join(map(clean, targets))
    return ", ".join(f"{clean(name)} {100 * weight / total:.3g}%" for name, weight in targets.items())


def _row(model: ShownModel) -> tuple[str, ...]:
    given = model.settings
    remote = given.get("backend_url")
    memory = "remote" if remote else _figure(given.get("gpu_memory_utilization", 0.9))
    costs = [given.get("input_cost", 0), given.get("output_cost", 0)]
    cost = "/".join(map(_figure, costs)) if any(costs) else "-"
    names = given.get("aliases", ())
    aliases = (", ".join(clean(str(name)) for name in names) if isinstance(names, list) else "") or "-"
    return (
        clean(model.name), clean(str(given.get("model", ""))), _state(model), _from(model.source), memory, cost, aliases
    )  # fmt: skip


def _figure(value: object) -> str:
    """A number; `?` for what a faulty model has in its place."""
    return f"{value:g}" if isinstance(value, int | float) else "?"


def _state(model: ShownModel) -> str:
    return clean(model.residency or model.state)


def _from(source: str) -> str:
    return "added" if source == "registry" else source


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [GAP.join(t + " " * (w - cell_len(t)) for t, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _path(kind: str, name: str) -> str:
    return f"/admin/{kind}/{quote(name, safe='')}"


def _read(kind: Any, value: object) -> Any:
    try:
        return read(kind, value)
    except WrongShape as e:
        raise BadAnswer(f"cannot use what the daemon answers: {e} (another version of arena-server?)") from e
