"""What a plan would change in the configuration: only what is needed to work, and the recommended fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arena_server.plan.card import Card
from arena_server.plan.dtypes import NOT_IN_FLOAT16, has_bfloat16
from arena_server.plan.plan import ModelPlan, Plan
from arena_server.plan.warn import Weight, warnings

Value = float | int | str


@dataclass(frozen=True, slots=True)
class Change:
    """One key of one model, `where` below `models.NAME`. `was` is what it is now, None if it is not there."""

    name: str
    where: tuple[str, ...]
    was: object
    value: Value
    why: str

    def __str__(self) -> str:
        was = "" if self.was is None else f" (was {self.was})"
        return f"models.{self.name}.{'.'.join(self.where)}: {self.value}{was}: {self.why}"


def changes(plan: Plan) -> list[Change]:
    """All that `--write` would write, in the configuration's order."""
    return [change for model in plan.models if model.works for change in _of(model, plan.cards)]


def not_to_be_written(plan: Plan) -> str | None:
    """Why none of `changes` should be written; None if nothing is against it.

    A model that does not fit is not: it is not counted. The others' numbers depend on one that was not seen, or that
    fails for another reason than its size: both have a share.
    """
    if unseen := [model.name for model in plan.models if model.sight is None]:
        return (
            f"{', '.join(unseen)} could not be looked at, and what the others get depends on what it needs "
            "(put that right and run it again, or take it out of the configuration)"
        )
    failing = {warning.name for warning in warnings(plan) if warning.weight is Weight.FAILS}
    if stuck := [model.name for model in plan.models if model.works and model.name in failing]:
        return f"{', '.join(stuck)} cannot work (see above), and is counted (put that right and run it again)"
    if plan.then.refused:
        return f"the pool would refuse it: {plan.then.refused[0]}"
    return None


def _of(model: ModelPlan, cards: Sequence[Card]) -> list[Change]:
    found = []
    proposal, args = model.proposal, model.model.engine_args
    if proposal is not None and proposal.recommended is not None:
        share = proposal.recommended / 100
        if share != model.model.gpu_memory_utilization or "gpu_memory_utilization" not in model.model.model_fields_set:
            was: object = model.model.gpu_memory_utilization if _is_set(model) else None
            found.append(Change(model.name, ("gpu_memory_utilization",), was, share, "recommended"))
        if proposal.write_length:
            whose = "what is asked for" if _asked(args) else "the model's own"
            why = f"{whose} is more than this card, or the model, has room for"
            was = args.get("max_model_len")
            found.append(Change(model.name, ("engine_args", "max_model_len"), was, proposal.length, why))
    if (dtype := needed_dtype(model, cards)) is not None:
        why = "the card has no bfloat16"
        found.append(Change(model.name, ("engine_args", "dtype"), args.get("dtype"), dtype, why))
    return found


def needed_dtype(model: ModelPlan, cards: Sequence[Card]) -> str | None:
    """What `dtype` has to be, where it asks for bfloat16 on a card without; with `auto` vLLM sees to it itself."""
    asked = model.model.engine_args.get("dtype")
    home = [card for card in cards if card.device.index in model.homes]
    if asked != "bfloat16" or model.architecture is None or all(has_bfloat16(card.capability) for card in home):
        return None
    return "float32" if model.architecture.model_type in NOT_IN_FLOAT16 else "half"


def _is_set(model: ModelPlan) -> bool:
    return "gpu_memory_utilization" in model.model.model_fields_set


def _asked(args: Mapping[str, object]) -> bool:
    return args.get("max_model_len") is not None
