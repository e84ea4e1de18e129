"""`/admin/usage`: who used what, and what it cost."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from arena_server.access.key_card import CONFIG_PREFIX
from arena_server.errors import BadRequest
from arena_server.store.usage_record import ANONYMOUS, By, Span, Sum, Used
from arena_server.usage.ledger import Ledger
from arena_server.usage.meter import UsageMeter
from arena_server.usage.price import cost_text

PARAMETERS = ("by", "since", "until", "key", "model")


def usage_router(meter: UsageMeter, ledger: Ledger) -> APIRouter:
    """The route; what `meter` has counted and not written yet is written first."""
    router = APIRouter(prefix="/admin", tags=["admin"])

    @router.get("/usage", summary="Requests, tokens, seconds and cost, by key, model or day")
    async def get_usage(
        request: Request,
        by: Annotated[By, Query(description="What is summed up")] = By.KEY,
        since: Annotated[date | None, Query(description="From this day on (UTC), as 2026-11-21")] = None,
        until: Annotated[date | None, Query(description="To the end of this day (UTC)")] = None,
        key: Annotated[str | None, Query(description="Only of the key with this id, or `anonymous`")] = None,
        model: Annotated[str | None, Query(description="Only of this model, by its configured name")] = None,
    ) -> dict[str, Any]:
        # One that were passed over would give the sums of everybody where those of one were asked for.
        for name in request.query_params:
            if name not in PARAMETERS:
                raise BadRequest(f"There is no parameter `{name}`; there are {', '.join(PARAMETERS)}.", param=name)
        if since is not None and until is not None and until < since:
            raise BadRequest(f"`until` ({until}) is before `since` ({since}).", param="until")
        await meter.flush()
        sums = await ledger.sums(by, Span(since, until, key, model))
        return {
            "by": by,
            "since": since,
            "until": until,
            "rows": [{by: each.of, **_name(by, each), **_used(each.used)} for each in sums],
            "total": _used(sum((each.used for each in sums), Used())),
        }

    return router


def _name(by: By, found: Sum) -> dict[str, str | None]:
    """What a key is called: one in the store as it was made, others as the configuration has them."""
    if by is not By.KEY:
        return {}
    if found.of.startswith(CONFIG_PREFIX):
        return {"name": found.of.removeprefix(CONFIG_PREFIX)}
    return {"name": "(without a key)" if found.of == ANONYMOUS else found.name}


def _used(used: Used) -> dict[str, Any]:
    return {
        "requests": used.requests,
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "seconds": round(used.seconds, 3),
        "cost": cost_text(used.cost_pico),
    }
