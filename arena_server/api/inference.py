"""Every public inference route of vLLM's server, relayed."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from arena_server.api.answer_cache import AnswerCache, Recorder
from arena_server.api.answer_end import GENERATION_PATHS
from arena_server.api.body import ask_of
from arena_server.api.errors import error_response
from arena_server.api.http_exchange import exchange_of
from arena_server.api.names import Catalogue
from arena_server.api.question import Headers, Question, header, session_of
from arena_server.api.relay import Relay
from arena_server.api.upload import read_body
from arena_server.course import Courses
from arena_server.errors import ArenaError
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
        try:
            body = await read_body(receive)
        except ClientDisconnect:
            return
        headers: Headers = scope["headers"]
        content_type = header(headers, b"content-type")
        ask = ask_of(body, content_type)
        asker = origin()
        model = self._names.resolve(ask.model, session_of(headers, asker.caller), asker.caller)
        stream = ask.stream and self._path in EVENT_STREAM_PATHS
        # Never `request.url`: some Starlettes make it of the Host header, and `Host: x/sleep?` would choose the route.
        query = scope["query_string"].decode("latin-1")
        question = Question(self._path, query, headers, body, content_type, ask, stream)
        fallbacks = [name for name in self._names.fallbacks(model) if asker.caller.may_ask(name)]
        key = self._cache.key_of(asker.caller, question, model, self._names.models[model])
        course = self._courses.begin(asker, self._path, model, stream=stream)
        if key is not None and (kept := self._cache.get(key)) is not None:
            await self._cache.replay(kept, course, send)
            return
        notice_s = self._wait_notice_s if stream else None
        if key is None:
            relay = Relay(self._pool, course, question, fallbacks, notice_s, exchange_of(scope))
            await relay(scope, receive, send)
            return
        recorder = Recorder(send, self._cache, key)
        try:
            await Relay(self._pool, course, question, fallbacks, notice_s)(scope, receive, recorder.send)
        finally:
            recorder.end(course)


class InferenceFirst:
    """Middleware (ASGI) that answers inference routes itself: the way through all routes of the application, and what
    FastAPI and Starlette put around each, took a tenth of the time to a first token.
    """

    def __init__(self, app: ASGIApp, routes: Mapping[str, ASGIApp]) -> None:
        """`routes` by their paths; they take POST."""
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the application do so."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        try:
            await route(scope, receive, send)
        except ArenaError as e:
            await error_response(e)(scope, receive, send)
