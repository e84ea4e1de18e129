"""What somebody who waits can expect, as far as the past tells. Pure; nothing here decides anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from arena_server.pool.core import PoolCore
from arena_server.pool.queue import Waiter
from arena_server.pool.residency import Residency
from arena_server.pool.state import Model


@dataclass(frozen=True, slots=True)
class Outlook:
    """A ticket's place in the queue (from 1), what goes on for it, and the seconds that may still take."""

    ticket: int
    models: tuple[str, ...]
    waited_s: float
    place: int
    phase: str
    eta_s: float


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a model is, and the seconds until it may answer; None if it is not coming up."""

    residency: Residency
    eta_s: float | None


def outlooks(core: PoolCore, now: float) -> list[Outlook]:
    """Of everybody in the queue, in order.

    The time is a sum of what each transition took when it was last measured: those ahead first, then its own. Patience
    and running answers are not in it, since nobody knows when these end.
    """
    answers = []
    ahead_s = 0.0
    counted: set[str] = set()
    for place, waiter in enumerate(core.queue, start=1):
        models = [core.models[name] for name in sorted(waiter.models)]
        own_s = _remaining_s((m for m in models if m.name not in counted), now)
        counted |= waiter.models
        ahead_s += own_s
        answers.append(
            Outlook(
                waiter.ticket,
                tuple(m.name for m in models),
                now - waiter.since,
                place,
                _phase(core, waiter, models, now),
                ahead_s,
            )
        )
    return answers


def model_eta_s(model: Model, now: float) -> float | None:
    """Seconds until a model that is coming up may answer; None if it is not coming up."""
    if model.residency in (Residency.LOADING, Residency.WAKING):
        return max(0.0, model.start_s - (now - model.since))
    return None


def _remaining_s(models: Iterable[Model], now: float) -> float:
    total = 0.0
    for model in models:
        eta_s = model_eta_s(model, now)
        total += model.start_s if eta_s is None else eta_s
        if model.residency in (Residency.STOPPING, Residency.FALLING_ASLEEP):
            leaving_s = model.stop_s if model.residency is Residency.STOPPING else model.sleep_s
            total += max(0.0, leaving_s - (now - model.since))
    return total


def _phase(core: PoolCore, waiter: Waiter, models: Iterable[Model], now: float) -> str:
    """What goes on for it, in a few words."""
    lacking = [m for m in models if not m.ready]
    coming = [m for m in lacking if m.residency in (Residency.LOADING, Residency.WAKING)]
    if coming:
        return ", ".join(f"{m.residency} {m.name}" for m in coming)
    names = " and ".join(m.name for m in lacking) or "its models"
    draining = [m.name for m in core.models.values() if m.draining is not None and m.leases]
    if waiter.patient_until is not None and now < waiter.patient_until:
        return f"waiting for room for {names}: others are busy"
    if waiter.patient_until is not None and draining:
        return f"waiting for room for {names}: {' and '.join(draining)} {'finish' if len(draining) > 1 else 'finishes'}"
    leaving = [
        f"{m.name} is {m.residency}"
        for m in core.models.values()
        if m.residency in (Residency.STOPPING, Residency.FALLING_ASLEEP)
    ]
    if leaving:
        return f"waiting for room for {names}: {', '.join(leaving)}"
    if any(outside > 0 for m in lacking for d in m.spec.footprint if (outside := core.ledger.outside.get(d, 0))):
        return f"waiting for room for {names}: others than this server hold memory"
    return f"waiting for room for {names}"
