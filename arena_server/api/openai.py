"""OpenAI's routes: the models, and every public inference route of vLLM's server, relayed."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from arena_server.api.body import ask_of, read_body
from arena_server.api.names import Catalogue
from arena_server.api.relay import RelayedResponse
from arena_server.course import Courses
from arena_server.pool.pool import Pool
from arena_server.request_id import origin

# Those whose answers come as server-sent events if `stream` is true: there, comments may come before the first event.
EVENT_STREAM_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})

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


def openai_router(
    pool: Pool, names: Catalogue, max_body_bytes: int, wait_notice_s: float, courses: Courses
) -> APIRouter:
    """The routes over `pool`. Bodies may have `max_body_bytes`; who waits so long for a stream is told of it."""
    router = APIRouter(tags=["openai"])
    created = int(time.time())

    def card(alias: str, name: str) -> dict[str, Any]:
        return {
            "id": alias,
            "object": "model",
            "created": created,
            "owned_by": "arena-server",
            "root": names.models[name].model,
            "parent": None if alias == name else name,
        }

    @router.get("/v1/models", summary="List models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [card(alias, name) for alias, name in names.items()]}

    @router.get("/v1/models/{model:path}", summary="Retrieve a model")
    async def get_model(model: str) -> dict[str, Any]:
        return card(model, names.resolve(model))

    for path in INFERENCE_PATHS:
        inference = Inference(pool, names, max_body_bytes, wait_notice_s, path, courses)
        router.routes.append(Route(path, inference, methods=["POST"]))
    return router


class Inference:
    """Answers one inference route (ASGI): not a function, as what FastAPI does around one is of no use here."""

    def __init__(
        self, pool: Pool, names: Catalogue, max_body_bytes: int, wait_notice_s: float, path: str, courses: Courses
    ) -> None:
        self._pool = pool
        self._names = names
        self._max_body_bytes = max_body_bytes
        self._wait_notice_s = wait_notice_s
        self._path = path
        self._courses = courses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the request, then relay it."""
        request = Request(scope, receive)
        try:
            body = await read_body(request, self._max_body_bytes)
        except ClientDisconnect:
            return
        ask = ask_of(body, request.headers.get("content-type", ""))
        model = self._names.resolve(ask.model)
        asker = origin()
        stream = ask.stream and self._path in EVENT_STREAM_PATHS
        course = self._courses.begin(asker.request_id, self._path, model, stream=stream, traceparent=asker.traceparent)
        # Never `request.url`: some Starlettes make it of the Host header, and `Host: x/sleep?` would choose the route.
        query = scope["query_string"].decode("latin-1")
        path = f"{self._path}?{query}" if query else self._path
        notice_s = self._wait_notice_s if stream else None
        await RelayedResponse(self._pool, course, path, request.headers.raw, body, notice_s)(scope, receive, send)
