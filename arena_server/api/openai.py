"""OpenAI's routes: the models, and the inference routes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.routing import Route
from starlette.types import ASGIApp

from arena_server.api.names import Catalogue
from arena_server.caller import Caller
from arena_server.request_id import origin


def openai_router(names: Catalogue, inference: Mapping[str, ASGIApp]) -> APIRouter:
    """The models of `names`, and the inference routes by their paths."""
    router = APIRouter(tags=["openai"])
    created = int(time.time())

    def card(alias: str, caller: Caller) -> dict[str, Any]:
        name, *others = names.targets(alias, caller)  # if there are others, the one of most weight
        return {
            "id": alias,
            "object": "model",
            "created": created,
            "owned_by": "arena-server",
            "root": names.models[name].model,
            "parent": None if alias == name else name,
            "display_name": alias if others else names.models[name].display_name or alias,
        }

    @router.get("/v1/models", summary="List models")
    async def list_models() -> dict[str, Any]:
        caller = origin().caller
        return {"object": "list", "data": [card(name, caller) for name in names.visible(caller)]}

    @router.get("/v1/models/{model:path}", summary="Retrieve a model")
    async def get_model(model: str) -> dict[str, Any]:
        return card(model, origin().caller)

    for path, relayed in inference.items():
        router.routes.append(Route(path, relayed, methods=["POST"]))
    return router
