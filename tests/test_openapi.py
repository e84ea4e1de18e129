"""`/openapi.json` says of every route what it takes, what it answers, and whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from starlette.routing import BaseRoute, Route

from arena_server.access.routes import Routes
from arena_server.api.inference import EVENT_STREAM_PATHS, INFERENCE_PATHS
from arena_server.caller import Scope
from tests.support.daemon_app import parts, running_daemon
from tests.support.raw_client import once

# The page and this document: no part of the API.
NOT_IN_IT = {"/", "/web/{path}", "/openapi.json"}
# Orders that need no more than their path.
NO_BODY = {"load", "sleep", "stop", "pin", "unpin", "reset", "reload", "enable", "disable"}


@pytest.fixture(scope="module")
def app() -> Iterator[FastAPI]:
    with parts() as joined:
        yield joined.daemon.app


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(m.upper(), path): o for path, found in document["paths"].items() for m, o in found.items()}


def test_it_is_openapi(document: dict[str, Any]) -> None:
    OPENAPI_31_VALIDATOR.validate(document)


def test_every_route_is_in_it(app: FastAPI, document: dict[str, Any]) -> None:
    def flat(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
        for route in routes:
            assert isinstance(route, Route | APIRoute), route
            yield from ((method, route.path_format) for method in route.methods or ())

    there = {(m, path) for m, path in flat(app.routes) if path not in NOT_IN_IT}
    assert set(operations(document)) == there
    assert len(there) > 30


def test_what_takes_a_body_says_which(document: dict[str, Any]) -> None:
    for (method, path), operation in operations(document).items():
        if method in ("POST", "PUT", "PATCH") and path.rpartition("/")[2] not in NO_BODY:
            content = operation["requestBody"]["content"]
            form = path.startswith("/v1/audio/")
            assert set(content) == {"multipart/form-data" if form else "application/json"}, path


def test_who_may_have_it(document: dict[str, Any]) -> None:
    routes = Routes(INFERENCE_PATHS)
    for (method, path), operation in operations(document).items():
        need = routes.need(method, path.replace("{", "").replace("}", ""))
        assert need.known, path
        named = {scope for way in operation["security"] for scopes in way.values() for scope in scopes}
        if need.scopes is None:
            assert operation["security"] == []
        elif need.scopes == frozenset(Scope):
            assert {"bearer": []} in operation["security"]
        else:
            assert named == set(need.scopes)
        assert ("401" in operation["responses"]) is (need.scopes is not None)
    public = {path for (_, path), o in operations(document).items() if not o["security"]}
    assert public == {"/health"}


def test_names_of_operations_are_unique(document: dict[str, Any]) -> None:
    names = [o["operationId"] for o in operations(document).values()]
    assert len(set(names)) == len(names)


def test_all_references_lead_somewhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    found = set(references(document))
    assert found
    for reference in found:
        at: Any = document
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]


def test_streams_are_said_to_be(document: dict[str, Any]) -> None:
    streams = {p for (_, p), o in operations(document).items() if "text/event-stream" in str(o["responses"])}
    arena = {"/v1/arena/compare", "/v1/arena/battles", "/v1/arena/battles/{battle_id}/turns"}
    assert streams == EVENT_STREAM_PATHS | arena | {"/admin/events"}


async def test_it_is_served(document: dict[str, Any]) -> None:
    async with running_daemon() as daemon:
        assert (await once(daemon.port, "GET", "/openapi.json")).json() == document
