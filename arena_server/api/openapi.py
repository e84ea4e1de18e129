"""`/openapi.json`: every route, who may have it, what goes in, and what comes out when it goes wrong.

FastAPI knows the routes, but not the bodies that are read by hand, nor the relayed routes, nor the errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from arena_server.access.routes import Need, Routes
from arena_server.api.chat_fields import BattleBody, CompareBody, TurnBody, VoteBody
from arena_server.api.inference import EVENT_STREAM_PATHS
from arena_server.api.key_body import KeyBody, RotationBody
from arena_server.api.openapi_bodies import BODIES
from arena_server.api.registry import AliasBody, ModelBody, ModelPatch
from arena_server.caller import Scope

REF = "#/components/schemas/"
JSON = "application/json"
EVENTS = "text/event-stream"

# Of the routes that read their bodies themselves.
READ_BY_HAND: Mapping[tuple[str, str], type[BaseModel]] = {
    ("post", "/v1/arena/compare"): CompareBody,
    ("post", "/v1/arena/battles"): BattleBody,
    ("post", "/v1/arena/battles/{battle_id}/turns"): TurnBody,
    ("post", "/v1/arena/battles/{battle_id}/vote"): VoteBody,
    ("post", "/admin/keys"): KeyBody,
    ("post", "/admin/keys/{key_id}/rotate"): RotationBody,
    ("post", "/admin/models"): ModelBody,
    ("patch", "/admin/models/{name}"): ModelPatch,
    ("put", "/admin/aliases/{name}"): AliasBody,
}
# Those that answer, or may answer, with server-sent events.
EVENT_ROUTES = frozenset(
    {
        *(("post", path) for path in EVENT_STREAM_PATHS),
        ("post", "/v1/arena/compare"),
        ("post", "/v1/arena/battles"),
        ("post", "/v1/arena/battles/{battle_id}/turns"),
        ("get", "/admin/events"),
    }
)
# No JSON at all.
ONLY_EVENTS = frozenset({("post", "/v1/arena/battles"), ("post", "/v1/arena/battles/{battle_id}/turns")})
ONLY_EVENTS |= {("get", "/admin/events")}

# Of any request: no HTTP; a head that has no end; too many connections, or the keys cannot be read.
OF_ALL = frozenset({400, 408, 431, 503})
OF_KEYS = frozenset({401, 403, 429})
OF_BODIES = frozenset({413})
# The relay's, and what vLLM itself may answer.
OF_MODELS = frozenset({404, 409, 422, 429, 500, 501, 502, 504})
OF_ORDERS = frozenset({404, 409, 429})
ALL_ERRORS = OF_ALL | OF_KEYS | OF_BODIES | OF_MODELS | OF_ORDERS

ERROR = {
    "type": "object",
    "description": "OpenAI's form of errors. `code` is for programs; a 429 or 503 has Retry-After.",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
BEARER = {"type": "http", "scheme": "bearer", "description": "An API key, as OpenAI's clients send it"}
API_KEY = {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "As Anthropic's clients send it"}


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, of the routes that the application has."""
    routes = Routes(BODIES)
    document = get_openapi(title=app.title, version=app.version, openapi_version="3.1.0", routes=app.routes)
    document["info"]["description"] = "More vLLM models than fit in GPU memory, behind one OpenAI-compatible port."
    paths: dict[str, Any] = document.setdefault("paths", {})
    for path in BODIES:
        paths[path] = {"post": _inference(path)}
    for path, operations in paths.items():
        for method, operation in operations.items():
            _complete(operation, method, path, routes.need(method.upper(), re.sub(r"{\w+}", "x", path)))
    document["components"] = {
        "schemas": _schemas(document.get("components", {}).get("schemas", {})),
        "responses": {_name(status): _error(status) for status in sorted(ALL_ERRORS)},
        "securitySchemes": {"bearer": BEARER, "apiKey": API_KEY},
    }
    return document


def _schemas(known: Mapping[str, Any]) -> dict[str, Any]:
    kinds = [(kind, "validation") for kind in READ_BY_HAND.values()]
    _, read_by_hand = models_json_schema(kinds, ref_template=REF + "{model}")  # type: ignore[arg-type]
    kept = {name: schema for name, schema in known.items() if name not in ("HTTPValidationError", "ValidationError")}
    return {**kept, **read_by_hand["$defs"], "Error": ERROR}


def _inference(path: str) -> dict[str, Any]:
    body = BODIES[path]
    return {
        "tags": ["openai"],
        "summary": body.summary,
        "requestBody": {"required": True, "content": {body.media_type: {"schema": body.schema()}}},
        "responses": {
            "200": {
                "description": "The engine's answer",
                "headers": {"x-arena-served-by": {"description": "The model", "schema": {"type": "string"}}},
                "content": {JSON: {"schema": {}}},
            }
        },
    }


def _complete(operation: dict[str, Any], method: str, path: str, need: Need) -> None:
    """What FastAPI does not know of it."""
    operation["operationId"] = "_".join([method, *re.findall(r"\w+", path)])
    operation["security"] = _security(need)
    if (method, path) in READ_BY_HAND:
        schema = {"$ref": REF + READ_BY_HAND[method, path].__name__}
        needed = path != "/admin/keys/{key_id}/rotate"
        operation["requestBody"] = {"required": needed, "content": {JSON: {"schema": schema}}}
    responses: dict[str, Any] = operation["responses"]
    responses.pop("422", None)  # FastAPI's; ours are in OpenAI's form
    if (method, path) in EVENT_ROUTES:
        good = responses["200"]
        plain = {} if (method, path) in ONLY_EVENTS else good.get("content", {})
        good["content"] = {**plain, EVENTS: {}}
    elif path == "/metrics":
        responses["200"]["content"] = {"text/plain": {}, "application/openmetrics-text": {}}
    elif path.startswith("/v1/audio/"):
        responses["200"]["content"]["text/plain"] = {}
    for status in sorted(_errors(method, path, need, "requestBody" in operation)):
        responses[str(status)] = {"$ref": f"#/components/responses/{_name(status)}"}


def _name(status: int) -> str:
    """Of an error's response: `NotFound`, say."""
    return re.sub(r"\W", "", HTTPStatus(status).phrase.title())


def _error(status: int) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": REF + "Error"}}}
    return {"description": HTTPStatus(status).phrase, "content": content}


def _errors(method: str, path: str, need: Need, body: bool) -> frozenset[int]:
    found = OF_ALL
    if not need.public:
        found |= OF_KEYS
    if body:
        found |= OF_BODIES
    if path in BODIES or need.limited:
        found |= OF_MODELS
    if method != "get":
        found |= OF_ORDERS
    elif "{" in path:
        found |= {404}
    return found


def _security(need: Need) -> Sequence[Mapping[str, Sequence[str]]]:
    """Each by itself is enough; a list of scopes is of those the key needs (OpenAPI 3.1.1, 4.8.30)."""
    if need.scopes is None:
        return []
    scopes: Iterable[Sequence[str]] = (
        [[s.value] for s in sorted(need.scopes)] if need.scopes != frozenset(Scope) else [[]]
    )
    return [{scheme: list(named)} for named in scopes for scheme in ("bearer", "apiKey")]
