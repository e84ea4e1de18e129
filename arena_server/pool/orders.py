"""What operators and new configurations want of the pool, and what can never be."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from arena_server.pool.events import Away, Drains, Reconfigure, Refusal, Removed, Replaced
from arena_server.pool.ledger import Ledger, holding_awake
from arena_server.pool.residency import COMING_UP, Residency
from arena_server.pool.service import Service, gib
from arena_server.pool.state import Model
from arena_server.pool.why import Cause, Why


class Orders(Service):
    """Takes them; models that have to leave for one finish first."""

    # Operators

    def _dismiss(self, model: Model, how: Away, why: str, now: float) -> None:
        if model.residency in COMING_UP and how is Away.STOPPED:
            self._refuse_waiters_of(model, f"{model.name} was stopped: {why}.")
            self._start_stop(model, why, now)
        elif model.residency is Residency.ASLEEP and how is Away.ASLEEP:
            return
        elif model.dismissed is Away.STOPPED:
            return  # for a new configuration, say: to sleep would not do
        elif model.residency in (Residency.AWAKE, Residency.FALLING_ASLEEP, Residency.ASLEEP):
            if model.residency is Residency.AWAKE and model.draining is None:
                self._effects.append(Drains(model.name, why))
            model.draining, model.dismissed, model.why = None, how, why

    def _pin(self, model: Model, pinned: bool) -> None:
        model.spec = replace(model.spec, pinned=pinned)
        if pinned:
            self._drain(model, None, "")
        self._refuse_misfits()

    def _reset(self, model: Model, now: float) -> None:
        model.failures = model.sleep_failures = 0
        if model.residency is Residency.FAILED:
            self._move(model, Residency.COLD, "an operator's order", now)
            model.error = None

    # The configuration

    def _reconfigure(self, event: Reconfigure, now: float) -> None:
        """Models that changed or went are put away first; who waits for one that changed goes on waiting."""
        self.limits = event.limits
        self.ledger.budget = event.budget
        specs = {spec.name: spec for spec in event.specs}
        for model in list(self.models.values()):
            spec = specs.get(model.name)
            if spec is None:
                model.removed, model.successor = True, None
                self._refuse_waiters_of(model, f"{model.name} is no longer in the configuration.")
            elif model.name in event.changed or model.removed or model.successor is not None:
                model.removed, model.successor = False, spec
            else:
                model.spec = spec
                continue
            self._replace_engine(model, now)
        for name, spec in specs.items():
            self.models.setdefault(name, Model(spec, times=spec.times))
        self.models = {name: self.models[name] for name in [*specs, *(n for n in self.models if n not in specs)]}
        self._refuse_misfits()

    def _replace_engine(self, model: Model, now: float) -> None:
        why = Why("its configuration changed", Cause.CONFIGURATION)
        if model.residency is Residency.FAILED:
            self._move(model, Residency.COLD, why, now)
        if model.residency in COMING_UP:
            self._start_stop(model, why, now)
        elif model.residency is Residency.COLD:
            self._succeed(model)
        else:
            self._dismiss(model, Away.STOPPED, why, now)

    def _succeed(self, model: Model) -> None:
        """Once its engine has gone: be what the configuration says now."""
        if model.residency not in (Residency.COLD, Residency.FAILED):
            return
        if model.removed:
            del self.models[model.name]
            self._effects.append(Removed(model.name))
        elif model.successor is not None:
            self.models[model.name] = Model(model.successor, times=model.successor.times, last_used=model.last_used)
            self._effects.append(Replaced(model.name))

    # What can never be

    def _refuse_misfits(self) -> None:
        for waiter in list(self.queue):
            if misfit := self.misfit(waiter.models):
                self._refuse_waiters([waiter], Refusal.NEVER_FITS, misfit)

    def misfit(self, names: Collection[str]) -> str | None:
        """Why these can never be awake together, beside what is pinned; None if they can. For people."""
        specs = {name: model.future for name, model in self.models.items()}
        models = [spec for name in sorted(names) if (spec := specs[name]) and spec.footprint]
        pinned = [spec for name, spec in specs.items() if spec and spec.footprint and spec.pinned and name not in names]
        shortage = Ledger(self.ledger.budget).shortage({s.name: holding_awake(s.footprint) for s in [*models, *pinned]})
        if not shortage:
            return None
        if shortage.places:
            most = self.ledger.budget.max_awake
            return f"{len(models)} models beside {len(pinned)} pinned; at most {most} can be awake."
        device = min(shortage.device_bytes)
        sizes = ", ".join(
            f"{s.name} {gib(s.footprint[device])}{' (pinned)' if s in pinned else ''}"
            for s in [*models, *pinned]
            if device in s.footprint
        )
        return f"On device {device}: {sizes}; the budget is {gib(self.ledger.budget.device_bytes[device])}."
