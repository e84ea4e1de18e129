"""One change of what was added: as it was given, kept, undone, applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from arena_server.config_file import dotted
from arena_server.errors import ConfigError
from arena_server.registry_entry import HIDDEN, hidden_values
from arena_server.store.registry_record import AliasRecord, Kind, ModelRecord, Record, RegistryRecords
from arena_server.vllm_arguments import normalise

SENT_BACK = f'is "{HIDDEN}", as secrets are shown (leave it out, and it stays; or give its value)'


class Records(Protocol):
    """Where they are kept. Calls may raise ArenaError; a later one may succeed."""

    async def list(self) -> RegistryRecords:
        """All of them."""
        ...

    async def put(self, kind: Kind, name: str, record: Record | None) -> None:
        """Keep a model or an alias; None: nothing under this name any more."""
        ...


@dataclass(frozen=True, slots=True)
class Additions:
    """What was added, by name, oldest first."""

    models: Mapping[str, ModelRecord] = field(default_factory=dict)
    aliases: Mapping[str, AliasRecord] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Edit:
    """`new` in place of `old`, both of this kind; None: none of this name."""

    kind: Kind
    name: str
    old: Record | None
    new: Record | None

    async def keep(self, records: Records) -> None:
        """Write it down."""
        await records.put(self.kind, self.name, self.new)

    async def undo(self, records: Records) -> None:
        """Write down what was before."""
        await records.put(self.kind, self.name, self.old)

    def applied(self, added: Additions) -> Additions:
        """All, with the change."""
        # One that is changed stays where it is: of two that do not go together the older one stays.
        changed: dict[str, Any] = {**getattr(added, self.kind), self.name: self.new}
        if self.new is None:
            del changed[self.name]
        return replace(added, **{self.kind: changed})

    @property
    def gives_names(self) -> bool:
        """Whether it gives a model other names than it had."""
        old, new = (
            record.settings.get("aliases") if isinstance(record, ModelRecord) else None
            for record in (self.old, self.new)
        )
        return new != old


def as_kept(name: str, given: Mapping[str, Any], known_arguments: frozenset[str] | None) -> Mapping[str, Any]:
    """What is given of a model's settings, with vLLM's arguments under the names that they are kept under.

    Raises ConfigError for what stands in a secret's place.
    """
    if hidden := [f"{dotted(('models', name, *where))}: {SENT_BACK}" for where in hidden_values(given)]:
        raise ConfigError(hidden)
    written = given.get("engine_args")
    if not isinstance(written, Mapping):
        return given
    args: dict[str, Any] = {}
    for key, value in written.items():
        # What is to be removed is called as if it were set: `no_x` is kept as `x`.
        ((kept, kept_value),) = normalise({key: True if value is None else value}, known_arguments)[0].items()
        if kept in args:
            return given  # twice, which its check says in better words
        args[kept] = None if value is None else kept_value
    return {**given, "engine_args": args}
