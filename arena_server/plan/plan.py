"""Works a plan out: what is seen of each model, what was measured, what the pool would make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import psutil

from arena_server.blueprint import UNMEASURED_ASLEEP_BYTES, Blueprint, draw_blueprint
from arena_server.config import Config
from arena_server.config_model import ModelConfig
from arena_server.engine.command import sleep_level
from arena_server.errors import ConfigError
from arena_server.measurements import Measured, MeasurementStore, installed_vllm_version, measurement_key
from arena_server.plan.architecture import Architecture, read_architecture
from arena_server.plan.card import Card, PlannedProbe
from arena_server.plan.errors import PlanError
from arena_server.plan.layers import NotUnderstood
from arena_server.plan.needs import Needs, needs
from arena_server.plan.propose import Proposal, Proposed, Room, propose, with_shares
from arena_server.plan.sight import Sight
from arena_server.plan.stages import Split
from arena_server.plan.together import Togetherness, who_fits
from arena_server.plan.weights import FOUR_BIT_BYTES, FP8_BYTES, quantised_bytes
from arena_server.pool.events import ModelSpec
from arena_server.pool.transitions import sleep_host_bytes


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """All that is known of one model. `trouble` is why nothing could be told of it; the rest is then None.

    Such a one counts with the fraction that it has: the trouble may well be over tomorrow (a hub that did not answer).
    """

    name: str
    model: ModelConfig
    homes: tuple[int, ...]
    sight: Sight | None = None
    architecture: Architecture | None = None
    not_understood: str | None = None
    needs: Needs | None = None
    proposal: Proposal | None = None
    measured: Measured = field(default_factory=Measured)
    trouble: str | None = None

    @property
    def works(self) -> bool:
        """Whether it can be loaded with what is proposed, as far as can be told."""
        if self.trouble is not None:
            return False
        return self.proposal is None or self.proposal.recommended is not None


@dataclass(frozen=True, slots=True)
class Host:
    """The host's RAM in bytes: all of it, and what the pool lets sleepers take."""

    total_bytes: int
    sleep_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan. `now` and `then` are who can be awake together as configured, and as proposed."""

    config: Config
    cards: Sequence[Card]
    budget: float
    models: Sequence[ModelPlan]
    proposed: Proposed
    host: Host
    now: Togetherness
    then: Togetherness


def make_plan(
    config: Config, cards: Sequence[Card], look: Callable[[str, ModelConfig], Sight], store: MeasurementStore
) -> Plan:
    """The plan for a configuration on these cards. `look` sees a model (`sight.look_at`).

    Raises ConfigError where the configuration does not go with the cards at all (a device that is not there).
    """
    probe = PlannedProbe(cards)
    version = installed_vllm_version()
    small = draw_blueprint(with_shares(config, dict.fromkeys(config.models, 1)), probe, store, version)
    homes, host = small.homes, Host(psutil.virtual_memory().total, small.budget.host_bytes or 0)
    models = [
        _seen(ModelPlan(name, model, homes[name], measured=_measured(model, cards, homes[name], store, version)), look)
        for name, model in config.models.items()
    ]
    models = [_needed(model, cards) for model in models]
    known = {m.name: m.needs for m in models if m.needs is not None and m.needs.cache is not None}
    fixed = frozenset(m.name for m in models if m.name not in known)
    room = Room(config, probe.devices, _asleep_bytes(models), _sleepers(models, host), fixed)
    proposed = propose(room, known)
    models = [replace(m, proposal=proposed.models.get(m.name)) for m in models]
    shares = {n: p.recommended for n, p in proposed.models.items() if p.recommended is not None}
    names = [m.name for m in models if m.works or m.sight is None]
    revised = _only(with_shares(config, shares), names)
    return Plan(
        config=config,
        cards=cards,
        budget=1 - config.pool.memory_reserve,
        models=models,
        proposed=proposed,
        host=host,
        now=_together(config, probe, store, version),
        then=_together(revised, probe, store, version),
    )


def without_remote(config: Config) -> tuple[Config, list[str]]:
    """The configuration without the models that other servers run, and those models' names."""
    remote = [name for name, model in config.models.items() if model.remote]
    return _only(config, [name for name in config.models if name not in remote]), remote


def _only(config: Config, names: Sequence[str]) -> Config:
    return config.model_copy(update={"models": {name: config.models[name] for name in names}})


def _together(config: Config, probe: PlannedProbe, store: MeasurementStore, version: str) -> Togetherness:
    if not config.models:
        return Togetherness()
    try:
        blueprint: Blueprint = draw_blueprint(config, probe, store, version)
    except ConfigError as e:
        return Togetherness(refused=tuple(e.lines))
    return who_fits(blueprint)


def _measured(
    model: ModelConfig, cards: Sequence[Card], home: Sequence[int], store: MeasurementStore, version: str
) -> Measured:
    devices = {card.device.index: card.device for card in cards}
    return store.get(measurement_key(model, [devices[i] for i in home], version))


def _seen(model: ModelPlan, look: Callable[[str, ModelConfig], Sight]) -> ModelPlan:
    try:
        sight = look(model.name, model.model)
    except PlanError as e:
        return replace(model, trouble=e.message)
    if sight.config is None:
        return replace(model, sight=sight, not_understood="it has no config.json, so only its weights are known")
    try:
        return replace(model, sight=sight, architecture=read_architecture(sight.config))
    except NotUnderstood as e:
        return replace(model, sight=sight, not_understood=str(e))


def _needed(model: ModelPlan, cards: Sequence[Card]) -> ModelPlan:
    if model.sight is None:
        return model
    home = [card for card in cards if card.device.index in model.homes]
    smallest = min(home, key=lambda card: card.device.total_bytes)
    return replace(model, needs=needs(model.model, model.architecture, model.sight.weights, smallest, model.measured))


def _asleep_bytes(models: Sequence[ModelPlan]) -> int:
    """The most that any of them keeps on a device while it sleeps."""
    kept = (max(m.measured.asleep_bytes.values(), default=UNMEASURED_ASLEEP_BYTES) for m in models)
    return max(kept, default=UNMEASURED_ASLEEP_BYTES)


def sleep_bytes(model: ModelPlan) -> int | None:
    """Host RAM it takes asleep, in bytes, by the pool's own rule: 0 where it takes none, None if that is not known."""
    spec = ModelSpec(model.name, dict.fromkeys(model.homes, 0), sleep_level=sleep_level(model.model, gpu=True))
    return sleep_host_bytes(spec, model.needs.weights.bytes if model.needs else None)


def _sleepers(models: Sequence[ModelPlan], host: Host) -> int:
    """How many can be asleep at once, whichever they are."""
    left, count = host.sleep_bytes, 0
    sizes = [sleep_bytes(m) for m in models if sleep_level(m.model, gpu=True)]
    for size in sorted((s for s in sizes if s is not None), reverse=True):
        left -= size
        if left < 0:
            break
        count += 1
    return count


def quantised(model: ModelPlan) -> Mapping[str, int] | None:
    """What its weights would take on each device in FP8 and in 4 bits, in bytes; None if that is not to be told."""
    if model.sight is None or model.architecture is None or model.needs is None:
        return None
    args = model.model.engine_args
    if args.get("quantization"):
        return None
    tensor, pipeline = (args.get(f"{kind}_parallel_size") for kind in ("tensor", "pipeline"))
    split = Split(tensor if isinstance(tensor, int) else 1, pipeline if isinstance(pipeline, int) else 1)
    float_bytes = 4 if model.needs.dtype == "float32" else 2
    found = {
        name: quantised_bytes(model.sight.weights, model.architecture, float_bytes, split, per_weight)
        for name, per_weight in (("fp8", FP8_BYTES), ("awq", FOUR_BIT_BYTES))
    }
    return {name: size for name, size in found.items() if size is not None} or None
