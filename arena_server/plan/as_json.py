"""A plan for programs. Sizes are bytes on each device, fractions those of the configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from arena_server.plan.change import Change
from arena_server.plan.figures import figures
from arena_server.plan.needs import Figure
from arena_server.plan.plan import ModelPlan, Plan, quantised, sleep_bytes
from arena_server.plan.warn import fails, warnings


def as_json(plan: Plan, changes: Sequence[Change]) -> dict[str, Any]:
    """The plan as JSON's types."""
    return {
        "config": str(plan.config.file),
        "works": not fails(plan),
        "devices": [
            {
                "index": card.device.index,
                "name": card.device.name,
                "total_bytes": card.device.total_bytes,
                "budget_bytes": int(card.device.total_bytes * plan.budget),
                "compute_capability": None if card.capability is None else ".".join(map(str, card.capability)),
                "together": plan.proposed.together.get(card.device.index),
                "sleepers": plan.proposed.sleepers.get(card.device.index),
            }
            for card in plan.cards
        ],
        "host": {"total_bytes": plan.host.total_bytes, "sleep_bytes": plan.host.sleep_bytes},
        "models": {model.name: _model(model, plan) for model in plan.models},
        "together": {
            "largest_sets": [list(chosen) for chosen in plan.then.sets],
            "pairs": plan.then.pairs,
            "apart": [{"models": [a, b], "why": why} for a, b, why in plan.then.apart],
        },
        "warnings": [{"level": w.weight.value, "model": w.name, "text": w.text} for w in warnings(plan)],
        "changes": [
            {"model": c.name, "key": ".".join(c.where), "was": c.was, "value": c.value, "why": c.why} for c in changes
        ],
    }


def _model(model: ModelPlan, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": model.model.model,
        "works": model.works,
        "trouble": model.trouble or model.not_understood,
        "devices": list(model.homes),
        "seen": model.sight.place if model.sight else None,
        "checkpoint_bytes": model.sight.weights.checkpoint_bytes if model.sight else None,
        "gpu_memory_utilization": model.model.gpu_memory_utilization,
    }
    needs, proposal, fit = model.needs, model.proposal, figures(model, plan)
    if needs is not None:
        found |= {
            "dtype": needs.dtype,
            "weights": _figure(needs.weights),
            "other": _figure(needs.overhead) if model.architecture else None,
            "sleep_host_bytes": sleep_bytes(model),
            "quantised_weights_bytes": quantised(model),
        }
    if needs is not None and needs.cache is not None:
        found |= {"kv_token_bytes": needs.cache.token_bytes, "own_context": needs.own_length}
    if proposal is not None:
        found |= {
            "context": proposal.length,
            "smallest": _fraction(proposal.smallest),
            "recommended": _fraction(proposal.recommended),
        }
    if fit is not None:
        requests = None if math.isinf(fit.requests) else round(fit.requests, 2)
        found |= {"kv_cache_bytes": fit.cache_bytes, "tokens": fit.tokens, "full_length_requests": requests}
    return found


def _figure(figure: Figure) -> dict[str, Any]:
    return {"bytes": figure.bytes, "measured": figure.measured}


def _fraction(hundredths: int | None) -> float | None:
    return None if hundredths is None else hundredths / 100
