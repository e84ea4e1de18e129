"""What the table of routes says of paths that try to look like others."""

from __future__ import annotations

import pytest

from arena_server.access.routes import ASKING, ASKING_ARENA, NOWHERE, PUBLIC, Routes
from arena_server.api.inference import INFERENCE_PATHS

ROUTES = Routes(INFERENCE_PATHS)


@pytest.mark.parametrize("path", INFERENCE_PATHS)
def test_whoever_asks_a_model_is_limited(path: str) -> None:
    assert ROUTES.need("POST", path) == ASKING
    assert not ROUTES.need("GET", path).limited


@pytest.mark.parametrize("path", ["/v1/arena/compare", "/v1/arena/battles", "/v1/arena/battles/b-1/turns"])
def test_so_is_the_arena(path: str) -> None:
    assert ROUTES.need("POST", path) == ASKING_ARENA


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/arena/battles/b-1/vote"),
        ("GET", "/v1/arena/battles/b-1"),
        ("GET", "/v1/arena/leaderboard"),
        ("GET", "/v1/models"),
        ("POST", "/admin/models/a/load"),
    ],
)
def test_what_asks_no_model_is_not(method: str, path: str) -> None:
    need = ROUTES.need(method, path)
    assert need.known
    assert not need.limited


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/x",
        "//",
        "//health",
        "/health/",
        "/HEALTH",
        "/health\n",
        "/health\x00",
        "/health/../admin/pool",
        "/web",
        "/v1/chat/completions/",
        "/v1/chat/completions\n",
        "/v1/arena/battles/b-1/turns\n",
        "/admin/pool\n",
        "/web/\x0b",
        "/docs",
        "/redoc",
        "http://x/health",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_in_the_table_is_nowhere(method: str, path: str) -> None:
    assert ROUTES.need(method, path) is NOWHERE


@pytest.mark.parametrize("path", ["/", "/web/", "/web/main.js", "/web/../admin/pool", "/web//etc/passwd"])
def test_nothing_else_is_public(path: str) -> None:
    # The application takes paths as they are: these are files of the page, or 404.
    assert ROUTES.need("GET", path) is PUBLIC
    assert ROUTES.need("GET", "/health").public
