"""Models and aliases that are added, changed and removed while the daemon runs. The store keeps them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from arena_server.composition import Composition, State, compose, names_of, without_file
from arena_server.config import Config, parse_alias, parse_model
from arena_server.errors import ArenaError, ConfigError, Conflict, ModelNotFound
from arena_server.merge_patch import merged
from arena_server.registry_edit import Additions, Edit, Records, as_kept
from arena_server.registry_entry import AliasEntry, ModelEntry, of_file, of_files_aliases
from arena_server.reload import Reloader
from arena_server.store.registry_record import AliasRecord, ModelRecord

logger = logging.getLogger(__name__)

UNDO_AGAIN_S = 2.0


class Registry:
    """What was added to the file. A change is checked as a whole, kept, and then put into force, or nothing changes.

    Changes raise ConfigError (its lines name keys as in the file), Conflict, ModelNotFound, StoreUnavailable and
    ShuttingDown.
    """

    def __init__(
        self, records: Records, reloader: Reloader, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """`now` is the time of day. `reloader` goes on with what was added from now on, also when it reads the file."""
        self._records = records
        self._reloader = reloader
        self._now = now
        self._added = Additions()
        # Changes that were refused, and are kept perhaps: the database did not say. Each by what it is of.
        self._in_doubt: dict[tuple[str, str], Edit] = {}
        self._doubtful = asyncio.Event()
        config = reloader.blueprint.config
        self._composition = self._pending = Composition(config, config)
        reloader.extended = self._extended
        reloader.followers.append(self._is_in_force)

    async def load(self) -> None:
        """Put what is kept into force, as far as it can still be used. Raises StoreUnavailable, and ShuttingDown."""
        async with self._reloader.one_at_a_time:
            kept = await self._records.list()
            self._added = Additions(
                {record.name: record for record in kept.models}, {record.name: record for record in kept.aliases}
            )
            if not kept.models and not kept.aliases:
                return
            self._reloader.apply(self._extended(self._composition.file))
        for name, standing in self._composition.models.items():
            if standing.state is State.ACTIVE and self._composition.config.models[name].preload:
                try:
                    self._reloader.pool.load(name)
                except ArenaError as e:
                    logger.error("Preloading %s: %s", name, e)

    async def run(self) -> None:
        """For ever: undo what was refused because the database did not say whether it is kept, once that can be."""
        while True:
            await self._doubtful.wait()
            try:
                async with self._reloader.one_at_a_time:
                    await self._settle()
            except ArenaError as e:
                logger.warning("A change that was refused cannot be undone yet: %s", e)
                await asyncio.sleep(UNDO_AGAIN_S)

    # What there is

    def models(self) -> list[ModelEntry]:
        """Those of the file, and those that were added."""
        found = [of_file(name, model) for name, model in self._composition.file.models.items()]
        for name, record in self._added.models.items():
            standing = self._composition.models[name]
            times = (None, None) if record.fault else (record.created_at, record.updated_at)
            found.append(ModelEntry(name, "registry", standing.state, standing.errors, record.settings, *times))
        return found

    def aliases(self) -> list[AliasEntry]:
        """Those of the file, and those that were added; not those that stand with a model."""
        found = of_files_aliases(self._composition.file)
        for name, record in self._added.aliases.items():
            standing = self._composition.aliases[name]
            time = None if record.fault else record.updated_at
            found.append(AliasEntry(name, "registry", standing.state, standing.errors, record.targets, time))
        return found

    # Changes

    async def add(self, name: str, settings: Mapping[str, Any]) -> None:
        """A new model. It is loaded when it is asked for."""

        def edit() -> Edit:
            self._refuse_files(name)
            if name in self._added.models:
                raise Conflict(f"There is a model `{name}` already; it can be changed (arena-server models set).")
            now = self._now()
            checked = self._checked(name, settings, {})
            return Edit("models", name, None, ModelRecord(name, checked, False, now, now))

        await self._change(edit)
        logger.info("Model %s added", name)

    async def change(self, name: str, patch: Mapping[str, Any]) -> None:
        """Change these settings (RFC 7396). Its engine is replaced only if it depends on one of them."""

        def edit() -> Edit:
            old = self._own(name)
            now = self._now()
            settings = self._checked(name, patch, old.settings)
            created_at = now if old.fault else old.created_at
            return Edit("models", name, old, ModelRecord(name, settings, old.disabled, created_at, now))

        await self._change(edit)
        logger.info("Model %s changed: %s", name, ", ".join(patch) or "nothing")

    async def disable(self, name: str, disabled: bool) -> None:
        """Serve it no longer, and keep its settings; or serve it again."""

        def edit() -> Edit:
            old = self._own(name)
            if disabled:
                self._refuse_needed(name)
            return Edit("models", name, old, replace(old, disabled=disabled, updated_at=self._now()))

        await self._change(edit)
        logger.info("Model %s %s", name, "disabled" if disabled else "enabled")

    async def remove(self, name: str) -> None:
        """Forget it. Answers that are running end well."""

        def edit() -> Edit:
            old = self._own(name)
            self._refuse_needed(name)
            return Edit("models", name, old, None)

        await self._change(edit)
        logger.info("Model %s removed", name)

    async def put_alias(self, name: str, targets: object) -> None:
        """A new alias, or other models or weights for one that was added."""

        def edit() -> Edit:
            self._refuse_files(name)
            try:
                weights = parse_alias(name, targets, self._composition.file.origin)
            except ConfigError as e:
                raise ConfigError(without_file(e, self._composition.file)) from None
            record = AliasRecord(name, dict(weights), self._now())
            return Edit("aliases", name, self._added.aliases.get(name), record)

        await self._change(edit)
        logger.info("Alias %s set", name)

    async def remove_alias(self, name: str) -> None:
        """Forget it."""

        def edit() -> Edit:
            if name not in self._added.aliases:
                self._refuse_files(name)
                raise ModelNotFound(name, self._added.aliases)
            return Edit("aliases", name, self._added.aliases[name], None)

        await self._change(edit)
        logger.info("Alias %s removed", name)

    async def _change(self, edit_of: Callable[[], Edit]) -> None:
        async def change() -> None:
            async with self._reloader.one_at_a_time:
                await self._settle()
                edit = edit_of()
                added = edit.applied(self._added)
                composition = self._composed(self._composition.file, added)
                self._refuse_worse(edit, composition)
                try:
                    await edit.keep(self._records)
                    self._pending = composition
                    self._reloader.apply(composition.config)
                except Exception:
                    # Also where it could not be kept: it may have been, and its acknowledgement lost on the way.
                    await self._undo(edit)
                    raise
                self._added = added

        # Whoever asked may leave: what is kept and what is in force must not be two things.
        await asyncio.shield(asyncio.create_task(change()))

    async def _undo(self, edit: Edit) -> None:
        self._in_doubt[edit.kind, edit.name] = edit
        try:
            await self._settle()
        except ArenaError:
            self._doubtful.set()

    async def _settle(self) -> None:
        """Undo what is in doubt: it was refused, and must not be there after a restart. Raises StoreUnavailable."""
        for what, edit in list(self._in_doubt.items()):
            await edit.undo(self._records)
            del self._in_doubt[what]
        self._doubtful.clear()

    # What is in force

    def _composed(self, file: Config, added: Additions) -> Composition:
        def check(config: Config) -> object:
            return self._reloader.draw(config, self._reloader.blueprint)

        return compose(file, added.models, added.aliases, check)

    def _extended(self, file: Config) -> Config:
        self._pending = self._composed(file, self._added)
        for kind, standings in (("Model", self._pending.models), ("Alias", self._pending.aliases)):
            for name, standing in standings.items():
                if standing.state is State.HIDDEN:
                    logger.warning("%s %s was added, and is hidden by what %s has of this name", kind, name, file.file)
                elif standing.errors:
                    left_out = "is left out" if standing.state is State.FAULTY else "cannot be used as it is"
                    logger.warning("%s %s was added, and %s: %s", kind, name, left_out, "; ".join(standing.errors))
        return self._pending.config

    def _is_in_force(self, config: Config) -> None:
        if config is self._pending.config:
            self._composition = self._pending
        else:
            self._composition = Composition(config, config)

    # What is refused

    def _own(self, name: str) -> ModelRecord:
        """The model that was added under this name. Raises Conflict if it stands in the file, and ModelNotFound."""
        if name not in self._added.models:
            self._refuse_files(name)
            raise ModelNotFound(name, [*self._composition.file.models, *self._added.models])
        return self._added.models[name]

    def _refuse_files(self, name: str) -> None:
        """Raises Conflict if the file has this name."""
        file = self._composition.file
        if name in names_of(file):
            raise Conflict(f"`{name}` stands in {file.file}: change it there, then `arena-server reload`.")

    def _refuse_needed(self, name: str) -> None:
        """Raises Conflict if something else that was added points to this model."""
        if self._composition.models[name].state is State.HIDDEN:
            return  # they point to the file's
        file, config = self._composition.file, self._composition.config
        aliases = [alias for alias, targets in config.aliases.items() if alias not in file.aliases and name in targets]
        needs = [f"the alias `{alias}` points to it" for alias in aliases]
        needs += [
            f"it is a fallback of `{other}`"
            for other, model in config.models.items()
            if other not in file.models and name in model.fallback
        ]
        if needs:
            raise Conflict(f"The model `{name}` is needed: {', '.join(needs)}. Change that first.")

    def _refuse_worse(self, edit: Edit, composition: Composition) -> None:
        """Raises ConfigError if what is edited could not be used, or something that was added no longer."""
        lines: list[str] = []
        for kind, before, after in (
            ("models", self._composition.models, composition.models),
            ("aliases", self._composition.aliases, composition.aliases),
        ):
            for name, standing in after.items():
                faulty = standing.state is State.FAULTY
                if (kind, name) == (edit.kind, edit.name):
                    refused = faulty or edit.gives_names
                else:
                    refused = faulty and before[name].state is not State.FAULTY
                if refused:
                    lines += standing.errors
        if lines:
            raise ConfigError(lines)

    def _checked(self, name: str, given: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
        """The old settings with those that are given, as they are kept. Raises ConfigError."""
        origin = self._composition.file.origin
        settings: dict[str, Any] = merged(old, as_kept(name, given, origin.known_arguments))
        try:
            model = parse_model(name, settings, origin)
        except ConfigError as e:
            raise ConfigError(without_file(e, self._composition.file)) from None
        if "engine_args" in settings:  # under one name each, so that the next change finds them
            settings["engine_args"] = dict(model.engine_args)
        return settings
