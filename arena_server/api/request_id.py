"""X-Request-ID on every request and every response of the daemon, whoever makes it.

The header is a convention, not a standard: OpenAI's clients show it as `_request_id`, vLLM takes its own request id
from it, proxies log it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arena_server.request_id import Origin, new_request_id, sane, set_origin

HEADER = b"x-request-id"


class Application(FastAPI):
    """FastAPI, with a door before all of it, and request ids around both: what an exception becomes is made outside of
    its middleware.
    """

    def __init__(self, door: Callable[[ASGIApp], ASGIApp], **settings: Any) -> None:
        """`door` makes of an application one that not everybody gets to; `settings` are FastAPI's."""
        super().__init__(**settings)
        self._door = door

    def build_middleware_stack(self) -> ASGIApp:
        """See `Starlette`."""
        return RequestIds(self._door(super().build_middleware_stack()))

    def openapi(self) -> dict[str, Any]:
        """See `FastAPI`; made when it is first asked for."""
        if self.openapi_schema is None:
            from arena_server.api.openapi import describe

            self.openapi_schema = describe(self)
        return self.openapi_schema


class RequestIds:
    """Gives each request its id (ASGI). No BaseHTTPMiddleware, which would pass each chunk through a queue."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does, with the id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = _origin(scope)
        set_origin(origin)
        header = (HEADER, origin.request_id.encode("ascii"))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                # An engine may put its own, which is this one, too, or (under an older vLLM) another.
                message["headers"] = [*[h for h in message.get("headers", ()) if h[0].lower() != HEADER], header]
            await send(message)

        await self._app(scope, receive, send_with_id)


def _origin(scope: Scope) -> Origin:
    request_id, traceparent = "", None
    for name, value in scope["headers"]:
        if name == HEADER:
            request_id = value.decode("latin-1")
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")
    return Origin(request_id if sane(request_id) else new_request_id(), traceparent)
