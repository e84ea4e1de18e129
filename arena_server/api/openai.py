"""OpenAI's routes: the models, and every public inference route of vLLM's server, relayed."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from arena_server.api.answer_cache import AnswerCache, Recorder
from arena_server.api.answer_end import GENERATION_PATHS
from arena_server.api.body import ask_of
from arena_server.api.names import Catalogue
from arena_server.api.question import Question, session_of
from arena_server.api.relay import RelayedResponse
from arena_server.api.upload import read_body
from arena_server.caller import Caller
from arena_server.course import Courses
from arena_server.pool.pool import Pool
from arena_server.request_id import origin

# Those whose answers come as server-sent events if `stream` is true: there, comments may come before the first event.
EVENT_STREAM_PATHS = GENERATION_PATHS

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
    pool: Pool, names: Catalogue, wait_notice_s: float, courses: Courses, cache: AnswerCache
) -> APIRouter:
    """The routes over `pool`. Who waits so long for a stream is told of it."""
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

    for path in INFERENCE_PATHS:
        inference = Inference(pool, names, wait_notice_s, path, courses, cache)
        router.routes.append(Route(path, inference, methods=["POST"]))
    return router


class Inference:
    """Answers one inference route (ASGI): not a function, as what FastAPI does around one is of no use here."""

    def __init__(
        self,
        pool: Pool,
        names: Catalogue,
        wait_notice_s: float,
        path: str,
        courses: Courses,
        cache: AnswerCache,
    ) -> None:
        self._pool = pool
        self._names = names
        self._wait_notice_s = wait_notice_s
        self._path = path
        self._courses = courses
        self._cache = cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the request, then relay it."""
        request = Request(scope, receive)
        try:
            body = await read_body(request)
        except ClientDisconnect:
            return
        content_type = request.headers.get("content-type", "")
        ask = ask_of(body, content_type)
        asker = origin()
        model = self._names.resolve(ask.model, session_of(request, asker.caller), asker.caller)
        stream = ask.stream and self._path in EVENT_STREAM_PATHS
        # Never `request.url`: some Starlettes make it of the Host header, and `Host: x/sleep?` would choose the route.
        query = scope["query_string"].decode("latin-1")
        path = f"{self._path}?{query}" if query else self._path
        question = Question(path, request.headers.raw, body, content_type, ask, stream)
        fallbacks = [name for name in self._names.fallbacks(model) if asker.caller.may_ask(name)]
        key = self._cache.key_of(asker.caller, question, model, self._names.models[model])
        course = self._courses.begin(asker, self._path, model, stream=stream)
        if key is not None and (kept := self._cache.get(key)) is not None:
            await self._cache.replay(kept, course, send)
            return
        notice_s = self._wait_notice_s if stream else None
        relayed = RelayedResponse(self._pool, course, question, fallbacks, notice_s)
        if key is None:
            await relayed(scope, receive, send)
            return
        recorder = Recorder(send, self._cache, key)
        try:
            await relayed(scope, receive, recorder.send)
        finally:
            recorder.end(course)
