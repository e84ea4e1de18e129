"""OpenAI's routes: the models, and every public inference route of vLLM's server, relayed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from arena_server.api.body import model_of, read_body
from arena_server.api.names import ModelNames
from arena_server.api.relay import RelayedResponse
from arena_server.config import ModelConfig
from arena_server.pool.pool import Pool

# All that a client can reach of an engine. An allowlist: vLLM's server has routes that put it to sleep, run code in its
# workers, load adapters, profile and scale it, and gains new ones with every version.
INFERENCE_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v2/embed",
    "/pooling",
    "/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/tokenize",
    "/detokenize",
)


def openai_router(pool: Pool, models: Mapping[str, ModelConfig], max_body_bytes: int) -> APIRouter:
    """The routes over `pool`; request bodies may have `max_body_bytes`."""
    router = APIRouter(tags=["openai"])
    names = ModelNames(models)
    created = int(time.time())

    def card(alias: str, name: str) -> dict[str, Any]:
        return {
            "id": alias,
            "object": "model",
            "created": created,
            "owned_by": "arena-server",
            "root": models[name].model,
            "parent": None if alias == name else name,
        }

    @router.get("/v1/models", summary="List models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [card(alias, name) for alias, name in names.items()]}

    @router.get("/v1/models/{model:path}", summary="Retrieve a model")
    async def get_model(model: str) -> dict[str, Any]:
        return card(model, names.resolve(model))

    async def infer(request: Request) -> Response:
        try:
            body = await read_body(request, max_body_bytes)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody will read it
        model = names.resolve(model_of(body, request.headers.get("content-type", "")))
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RelayedResponse(pool, model, path, request.headers.raw, body)

    for path in INFERENCE_PATHS:
        router.add_api_route(
            path, infer, methods=["POST"], summary="As vLLM's route of this name; `model` chooses the engine"
        )
    return router
