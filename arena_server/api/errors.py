"""Every error leaves in OpenAI's form, whatever raised it."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from arena_server.errors import ArenaError, BadRequest, EngineRefused

logger = logging.getLogger(__name__)


def error_response(error: ArenaError) -> JSONResponse:
    """The error as a response; Retry-After in whole seconds, at least 1, where a retry may help."""
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return JSONResponse(error.body(), error.status, headers)


def error_event(error: ArenaError, route: str) -> bytes:
    """The error as the last server-sent event of a stream that has begun, in the dialect of the route.

    Chat and completions streams carry `{"error": ...}` and end with [DONE], as vLLM's own do; /v1/responses and
    /v1/messages have a typed `error` event (OpenAI's and Anthropic's streaming references).
    """
    body: dict[str, Any] = error.body()
    # A blank line first: the engine may have been cut off between the lines of an event.
    if route == "/v1/messages":
        inner = body["error"] if isinstance(error, EngineRefused) else {"type": "api_error", "message": error.message}
        body = {"type": "error", "error": inner}
        return b"\n\nevent: error\ndata: " + json.dumps(body).encode() + b"\n\n"
    if route == "/v1/responses":
        body = {"type": "error", "code": error.code, "message": error.message, "param": None, **body}
        return b"\n\nevent: error\ndata: " + json.dumps(body).encode() + b"\n\n"
    return b"\n\ndata: " + json.dumps(body).encode() + b"\n\ndata: [DONE]\n\n"


def install(app: FastAPI) -> None:
    """Make the application answer every exception in OpenAI's form."""

    async def arena_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ArenaError)
        return error_response(error)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{error.detail}: {request.method} {request.scope['path']}"
        kind = "invalid_request_error" if error.status_code < 500 else "server_error"
        body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
        return JSONResponse(body, error.status_code, error.headers)

    async def not_of_the_form(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"][1:])
        return error_response(BadRequest(f"`{where}`: {fault['msg']}", param=where or None))

    async def client_left(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nginx's number for it; goes nowhere

    async def defect(request: Request, error: Exception) -> Response:
        # Starlette raises it again after this answer, and the server logs it with its traceback.
        return error_response(ArenaError("Internal error; the server's log has the details."))

    app.add_exception_handler(ArenaError, arena_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, not_of_the_form)
    app.add_exception_handler(ClientDisconnect, client_left)
    app.add_exception_handler(Exception, defect)
