"""OpenAI's routes: the models, and every public inference route of vLLM's server, relayed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

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

    for path in INFERENCE_PATHS:
        router.routes.append(Route(path, Inference(pool, names, max_body_bytes, path), methods=["POST"]))
    return router


class Inference:
    """Answers one inference route (ASGI): not a function, as what FastAPI does around one is of no use here."""

    def __init__(self, pool: Pool, names: ModelNames, max_body_bytes: int, path: str) -> None:
        self._pool = pool
        self._names = names
        self._max_body_bytes = max_body_bytes
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the request, then relay it."""
        request = Request(scope, receive)
        try:
            body = await read_body(request, self._max_body_bytes)
        except ClientDisconnect:
            return
        model = self._names.resolve(model_of(body, request.headers.get("content-type", "")))
        # Never `request.url`: some Starlettes make it of the Host header, and `Host: x/sleep?` would choose the route.
        query = scope["query_string"].decode("latin-1")
        path = f"{self._path}?{query}" if query else self._path
        await RelayedResponse(self._pool, model, path, request.headers.raw, body)(scope, receive, send)
