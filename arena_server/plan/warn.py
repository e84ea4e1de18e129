"""What a person should know of a plan: what cannot work on these cards, and what would help. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from arena_server.plan.card import Capability, Card
from arena_server.plan.dtypes import FP8_FROM, has_bfloat16
from arena_server.plan.plan import ModelPlan, Plan, quantised, sleep_bytes

LEAST_CAPABILITY: Capability = (7, 0)  # vLLM's binary wheels
FOUR_BIT_FROM: Capability = (7, 5)  # AWQ and GPTQ kernels; FP8 weights
FOUR_BIT = frozenset({"awq", "gptq", "awq-marlin", "gptq-marlin", "auto-awq", "auto-gptq"})
FP8 = frozenset({"fp8", "fbgemm-fp8", "modelopt"})
GIB = 1 << 30
PAIRS_AT_MOST = 6
WORDS: Mapping[str, str] = MappingProxyType({"fp8": "FP8", "awq": "4 bits (AWQ)"})


class Weight(StrEnum):
    """How bad it is."""

    FAILS = "fails"  # a model cannot work so
    COSTS = "warning"
    TELLS = "note"


@dataclass(frozen=True, slots=True)
class Warning:
    """One sentence; `name` is the model it is about, None if it is about all."""

    weight: Weight
    name: str | None
    text: str


def gib(size: int) -> str:
    """Bytes in GiB, with the unit."""
    return f"{size / GIB:.1f} GiB"


def warnings(plan: Plan) -> list[Warning]:
    """All of them: by model in the configuration's order, then what is about several."""
    found = []
    for model in plan.models:
        cards = [card for card in plan.cards if card.device.index in model.homes]
        found += [Warning(weight, model.name, text) for weight, text in _of_model(model, cards, plan)]
    found += [Warning(weight, None, text) for weight, text in _of_all(plan)]
    return found


def fails(plan: Plan) -> bool:
    """Whether some model cannot work as planned."""
    return any(warning.weight is Weight.FAILS for warning in warnings(plan))


Told = Iterator[tuple[Weight, str]]


def _of_model(model: ModelPlan, cards: Sequence[Card], plan: Plan) -> Told:
    if model.trouble is not None:
        yield Weight.FAILS, model.trouble.removeprefix(f"{model.name}: ")
        return
    if model.not_understood is not None:
        yield Weight.COSTS, f"{model.not_understood}: its KV cache is not known, and its fraction is left as it is"
    if model.architecture is not None:
        for note in model.architecture.notes:
            yield Weight.TELLS, f"an estimate only: {note}"
    yield from _split(model)
    yield from _on_the_card(model, cards)
    yield from _sizes(model, cards, plan)
    yield from _lengths(model)


def _split(model: ModelPlan) -> Told:
    """What vLLM refuses to split over devices: heads of attention evenly, those of keys and values so or as copies."""
    size, of = model.model.engine_args.get("tensor_parallel_size"), model.architecture
    if type(size) is not int or size < 2 or of is None:
        return
    if of.heads % size:
        yield Weight.FAILS, f"its {of.heads} attention heads cannot be split over tensor_parallel_size {size}"
    elif not of.latent_dim and of.kv_heads % size and size % of.kv_heads:
        what = f"its {of.kv_heads} heads of keys and values"
        yield Weight.FAILS, f"{what} cannot be split over tensor_parallel_size {size}"


def _on_the_card(model: ModelPlan, cards: Sequence[Card]) -> Told:
    capability = min((card.capability for card in cards if card.capability is not None), default=None)
    if capability is None:
        return
    version = f"compute capability {capability[0]}.{capability[1]}"
    if capability < LEAST_CAPABILITY:
        yield Weight.FAILS, f"vLLM does not run on {version}"
        return
    args = model.model.engine_args
    own = model.architecture.dtype if model.architecture else "unknown"
    asked = args.get("dtype")
    if not has_bfloat16(capability):
        if asked == "bfloat16":
            name = "float32" if _run(model) == "float32" else "half"
            yield Weight.COSTS, f"dtype bfloat16 does not run on {version}: it needs dtype {name}"
        elif own == "bfloat16" and asked in (None, "auto"):
            yield Weight.TELLS, f"{version} has no bfloat16: vLLM runs it in {_run(model)} (--dtype {_short(model)})"
    method = (model.architecture.quantisation if model.architecture else None) or args.get("quantization")
    method = str(method).lower().replace("_", "-") if method else None
    if method in FOUR_BIT | FP8 and capability < FOUR_BIT_FROM:
        yield Weight.FAILS, f"{method} does not run on {version}"
    elif method in FP8 and capability < FP8_FROM:
        yield Weight.TELLS, f"{version} does not compute in FP8: its weights stay small, but it is no faster"
    if str(args.get("kv_cache_dtype") or "").startswith("fp8") and capability < FP8_FROM:
        yield Weight.COSTS, f"an FP8 KV cache is not supported on {version}: remove kv_cache_dtype"


def _run(model: ModelPlan) -> str:
    return model.needs.dtype if model.needs else "float16"


def _short(model: ModelPlan) -> str:
    return "half" if _run(model) == "float16" else "float32"


def _sizes(model: ModelPlan, cards: Sequence[Card], plan: Plan) -> Told:
    needs = model.needs
    if needs is None or not cards:
        return
    card_bytes = min(card.device.total_bytes for card in cards)
    share = model.model.gpu_memory_utilization
    share_bytes = int(card_bytes * share)
    of = f"{share:g} of {gib(card_bytes)} is {gib(share_bytes)}"
    if model.proposal is None:
        if needs.weights.bytes > share_bytes:
            yield Weight.COSTS, f"as configured, {of}, but its weights alone take {gib(needs.weights.bytes)}"
        return
    if model.proposal.recommended is None:
        least = needs.least_bytes(model.proposal.length)
        has = gib(int(card_bytes * plan.budget))
        yield (
            Weight.FAILS,
            f"does not fit on this card: it takes {gib(least)} at the least (weights {gib(needs.weights.bytes)}), "
            f"and the pool gives out {has}{_smaller(model)}",
        )
        return
    if needs.weights.bytes > share_bytes:
        yield Weight.COSTS, f"as configured, {of}, but its weights alone take {gib(needs.weights.bytes)}"
        return
    length = model.proposal.length if needs.length == -1 else needs.asked_length
    if (one := needs.least_bytes(length)) > share_bytes:
        yield Weight.COSTS, f"as configured, {of}, but with one request of {length:,} tokens it takes {gib(one)}"


def _smaller(model: ModelPlan) -> str:
    """Ways to make it smaller."""
    if smaller := quantised(model):
        return "; its weights would take " + " and ".join(f"{gib(n)} in {WORDS[kind]}" for kind, n in smaller.items())
    return "; take a smaller model, or a larger card"


def _lengths(model: ModelPlan) -> Told:
    needs, proposal = model.needs, model.proposal
    if needs is None or model.architecture is None:
        return
    if needs.length is not None and needs.length > needs.own_length:
        text = f"max_model_len {needs.length:,} is over the model's own {needs.own_length:,}"
        yield (Weight.TELLS, text) if needs.long_allowed else (Weight.COSTS, f"{text}: vLLM refuses that")
    if proposal is not None and proposal.length < needs.asked_length and proposal.write_length and needs.cache:
        one = gib(needs.cache.request_bytes(needs.asked_length))
        whose = "its own context" if needs.length is None else "max_model_len"
        yield (
            Weight.COSTS,
            f"{whose} of {needs.asked_length:,} tokens takes {one} of KV cache for one request, more than this card "
            f"can spare: planned with max_model_len {proposal.length:,}",
        )


def _of_all(plan: Plan) -> Told:
    found = {card.capability for card in plan.cards if card.capability is not None}
    if old := sorted(capability for capability in found if not has_bfloat16(capability)):
        version = ", ".join(f"{major}.{minor}" for major, minor in old)
        yield Weight.TELLS, f"compute capability {version} has no FlashAttention 2: attention is slower"
    for line in plan.now.refused:
        yield Weight.COSTS, "as configured, the pool would refuse it: " + line
    for line in plan.then.refused:
        yield Weight.FAILS, "as planned, the pool would refuse it: " + line
    if len(plan.then.apart) == plan.then.pairs > 0:
        yield Weight.COSTS, "no two models can be awake together, which a battle needs"
    else:
        for a, b, why in plan.then.apart[:PAIRS_AT_MOST]:
            yield Weight.COSTS, f"{a} and {b} can never be awake together: {why}"
        if (more := len(plan.then.apart) - PAIRS_AT_MOST) > 0:
            yield Weight.COSTS, f"nor can {more} more pairs (--json has them all)"
    host_bytes = {model.name: sleep_bytes(model) for model in plan.models if model.works}
    known = {name: size for name, size in host_bytes.items() if size}
    if known and max(known.values()) > plan.host.sleep_bytes:
        largest = max(known, key=lambda name: known[name])
        text = f"{largest} needs {gib(known[largest])} of host RAM to sleep, and sleepers may take "
        yield Weight.COSTS, text + f"{gib(plan.host.sleep_bytes)}: it is stopped instead, and loaded anew each time"
    for device, room in plan.proposed.sleepers.items():
        there = [m for m in plan.models if device in m.homes and host_bytes.get(m.name)]
        if there and room == 0 and len(there) > plan.proposed.together.get(device, 0):
            text = "no room for sleepers beside those awake: who is evicted is stopped, and loaded anew each time"
            yield Weight.TELLS, f"device {device}: {text}"
