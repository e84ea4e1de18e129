"""How much fits into what is proposed for a model. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from arena_server.plan.plan import ModelPlan, Plan


@dataclass(frozen=True, slots=True)
class Figures:
    """vLLM's "KV cache size" in tokens, and its "Maximum concurrency" for requests of `length` tokens."""

    cache_bytes: int
    tokens: int
    requests: float
    length: int


def figures(model: ModelPlan, plan: Plan) -> Figures | None:
    """With the recommended fraction; None where it cannot be told."""
    proposal, needs = model.proposal, model.needs
    if proposal is None or proposal.recommended is None or needs is None or needs.cache is None:
        return None
    total = min(card.device.total_bytes for card in plan.cards if card.device.index in model.homes)
    left = needs.cache_bytes(total * proposal.recommended // 100)
    return Figures(
        cache_bytes=left,
        tokens=needs.cache.tokens_in(left, proposal.length),
        requests=needs.cache.requests_in(left, proposal.length),
        length=proposal.length,
    )
