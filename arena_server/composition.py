"""The configuration in force: the file's, and what was added to it at run time. Pure but for `check`.

The file has precedence for the names that it has. What was added and can no longer be used (another version, another
machine, another file) is left out, and never keeps the rest from being served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from arena_server.config import Config, parse_alias, parse_model
from arena_server.config_file import Key, dotted
from arena_server.config_model import ModelConfig
from arena_server.config_names import name_faults
from arena_server.errors import ConfigError
from arena_server.store.registry_record import AliasRecord, ModelRecord

Check = Callable[[Config], object]
"""Raises ConfigError where a configuration cannot be used on this machine."""


class State(StrEnum):
    """What has become of something that was added."""

    ACTIVE = "active"
    DISABLED = "disabled"
    HIDDEN = "hidden"  # the file has one of this name
    FAULTY = "faulty"  # it cannot be used as it is


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of one model or alias; `errors` name its keys as they would be called in the file."""

    state: State
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Composition:
    """`config` is what comes of `file` and the models and aliases that were added, by their names."""

    config: Config
    file: Config
    models: Mapping[str, Standing] = field(default_factory=dict)
    aliases: Mapping[str, Standing] = field(default_factory=dict)


def compose(
    file: Config, models: Mapping[str, ModelRecord], aliases: Mapping[str, AliasRecord], check: Check
) -> Composition:
    """What comes of them. Raises ConfigError where the file alone does not pass `check`."""
    draft = _Draft(file, names_of(file))
    for name, record in models.items():
        draft.add_model(name, record)
    for name, alias in aliases.items():
        draft.add_alias(name, alias)
    draft.settle(check)
    return Composition(draft.config(), file, draft.model_standings, draft.alias_standings)


def names_of(config: Config) -> set[str]:
    """Every name that clients may use."""
    return {*config.models, *config.aliases, *(alias for model in config.models.values() for alias in model.aliases)}


def without_file(error: ConfigError, config: Config) -> tuple[str, ...]:
    """An error's lines, without the name of a file that does not have what they are about."""
    return tuple(line.removeprefix(f"{config.file}: ") for line in error.lines)


class _Draft:
    """What is left of the additions so far, and what is known of each."""

    def __init__(self, file: Config, taken: set[str]) -> None:
        self._file = file
        self._taken = taken
        self._models: dict[str, ModelConfig] = {}
        self._aliases: dict[str, Mapping[str, float]] = {}
        self.model_standings: dict[str, Standing] = {}
        self.alias_standings: dict[str, Standing] = {}

    def add_model(self, name: str, record: ModelRecord) -> None:
        self.model_standings[name] = Standing(State.DISABLED if record.disabled else State.HIDDEN)
        if record.disabled or name in self._taken:
            return
        if record.fault:
            self._leave_out("models", name, (f"{dotted(('models', name))}: {record.fault}",))
            return
        try:
            model = parse_model(name, record.settings, self._file.origin)
        except ConfigError as e:
            self.model_standings[name] = Standing(State.FAULTY, without_file(e, self._file))
            return
        hidden = [alias for alias in model.aliases if alias in self._taken]
        errors = tuple(f"{dotted(('models', name, 'aliases'))}: `{alias}` is the file's" for alias in hidden)
        others = tuple(alias for alias in model.aliases if alias not in hidden)
        self._models[name] = model.model_copy(update={"aliases": others})
        self.model_standings[name] = Standing(State.ACTIVE, errors)

    def add_alias(self, name: str, record: AliasRecord) -> None:
        self.alias_standings[name] = Standing(State.HIDDEN)
        if name in self._taken:
            return
        if record.fault:
            self._leave_out("aliases", name, (f"{dotted(('aliases', name))}: {record.fault}",))
            return
        try:
            self._aliases[name] = parse_alias(name, record.targets, self._file.origin)
        except ConfigError as e:
            self.alias_standings[name] = Standing(State.FAULTY, without_file(e, self._file))
        else:
            self.alias_standings[name] = Standing(State.ACTIVE)

    def settle(self, check: Check) -> None:
        """Leave out what does not go together with the rest."""
        while True:
            while faults := list(self._misnamed()):
                for kind, name, line in faults:
                    self._leave_out(kind, name, (line,))
            try:
                check(self.config())
            except ConfigError:
                self._keep_what_fits(check)
            else:
                return

    def config(self) -> Config:
        return self._with(self._models)

    def _with(self, models: Mapping[str, ModelConfig]) -> Config:
        if not models and not self._aliases:
            return self._file
        return self._file.model_copy(
            update={"models": {**self._file.models, **models}, "aliases": {**self._file.aliases, **self._aliases}}
        )

    def _misnamed(self) -> Iterator[tuple[Key, str, str]]:
        config = self.config()
        models = {n: {"aliases": m.aliases, "fallback": m.fallback} for n, m in config.models.items()}
        for where, what in name_faults(models, config.aliases):
            # The file's own names go together, and come first: it is always an addition that is at fault.
            if where[1] in (self._models if where[0] == "models" else self._aliases):
                yield where[0], str(where[1]), f"{dotted(where)}: {what}"

    def _leave_out(self, kind: Key, name: str, errors: Sequence[str]) -> None:
        mine, standings = (
            (self._models, self.model_standings) if kind == "models" else (self._aliases, self.alias_standings)
        )
        mine.pop(name, None)
        known = standings[name].errors if standings[name].state is State.FAULTY else ()
        standings[name] = Standing(State.FAULTY, (*known, *errors))

    def _keep_what_fits(self, check: Check) -> None:
        """Of the models those, in their order, that go together on this machine's devices. Raises ConfigError."""
        check(self._file)
        kept: dict[str, ModelConfig] = {}
        for name, model in list(self._models.items()):
            try:
                check(self._with({**kept, name: model}))
            except ConfigError as e:
                self._leave_out("models", name, without_file(e, self._file))
            else:
                kept[name] = model
