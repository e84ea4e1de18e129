"""Every route of the running daemon, with every scope and with none, is answered as docs/security.md has it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from starlette.routing import Route

from arena_server.caller import Scope
from tests.support.daemon_app import FakeDaemon, parts, running_daemon
from tests.support.keys import access, bearer
from tests.support.raw_client import Header, connected

TEXT = (Path(__file__).parent.parent.parent / "docs/security.md").read_text()
NONE = "no key"
COLUMNS = [NONE, *(scope.value for scope in Scope)]
ANONYMOUS = [Scope.INFERENCE, Scope.ARENA, Scope.METRICS]

Table = dict[tuple[str, str], dict[str, int]]


def documented() -> Table:
    """Method and path -> the status for each column."""
    lines = TEXT.partition("## Every route")[2].splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| route |"))
    assert [cell.strip(" `") for cell in lines[head].strip("|").split("|")][1:] == COLUMNS
    table: Table = {}
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        routes, *statuses = (cell.strip() for cell in line.strip("|").split("|"))
        for method, path in re.findall(r"`([A-Z]+) (\S+)`", routes):
            assert (method, path) not in table
            table[method, path] = dict(zip(COLUMNS, map(int, statuses), strict=True))
    return table


TABLE = documented()


def is_served() -> set[tuple[str, str]]:
    """The routes that the application has, in the table's form."""
    with parts() as joined:
        routes = [route for route in joined.daemon.app.routes if isinstance(route, Route)]
        assert len(routes) == len(joined.daemon.app.routes), "a mount, or a kind of route that is not looked at here"
        return {
            (method, re.sub(r":path}", "}", route.path))
            for route in routes
            for method in route.methods or ()
            if method != "HEAD"
        }


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with running_daemon(access=access()) as running:
        yield running


async def test_every_route_is_in_the_table_and_no_other() -> None:
    assert is_served() == TABLE.keys()


async def asked(daemon: FakeDaemon, method: str, path: str, headers: list[Header]) -> tuple[int, dict[str, str]]:
    """Status and headers; the rest, which may never end, is left."""
    async with connected(daemon.port) as client:
        body = b"{}" if method != "GET" else b""
        client.request(
            method, re.sub(r"{\w+}", "nothing", path), body, [("Content-Type", "application/json"), *headers]
        )
        status, answered = await client.head()
        client.leave()
        return status, dict(answered)


def expected(status: int) -> str:
    return {200: "let in"}.get(status, str(status))


def found(status: int, headers: dict[str, str]) -> str:
    assert status != 500, "a defect"
    if status == 401:
        assert headers["www-authenticate"] == "Bearer"
    return str(status) if status in (401, 403) else "let in"


@pytest.mark.parametrize("column", COLUMNS)
async def test_every_route_answers_as_written(daemon: FakeDaemon, column: str) -> None:
    headers = [] if column == NONE else bearer(column)
    results = {route: found(*await asked(daemon, *route, headers)) for route in TABLE}
    assert results == {route: expected(row[column]) for route, row in TABLE.items()}


@pytest.mark.parametrize("header", [[("Authorization", "Bearer sk-arena-wrong")], [("x-api-key", "sk-arena-wrong")]])
async def test_a_wrong_key_is_worth_less_than_none(header: list[Header]) -> None:
    async with running_daemon(access=access(anonymous=ANONYMOUS, failed_tries_per_minute=1000)) as daemon:
        results = {route: found(*await asked(daemon, *route, header)) for route in TABLE}
    assert results == {route: expected(row[NONE]) for route, row in TABLE.items()}


@pytest.mark.parametrize("scope", ANONYMOUS)
async def test_what_anybody_may_do_needs_no_key(scope: Scope) -> None:
    async with running_daemon(access=access(anonymous=[scope])) as daemon:
        results = {route: found(*await asked(daemon, *route, [])) for route in TABLE}
    # What such a key would be refused, a key may still get.
    wanted = {route: expected(row[scope.value]).replace("403", "401") for route, row in TABLE.items()}
    assert results == wanted


async def test_without_any_key_everybody_may_do_everything() -> None:
    async with running_daemon() as daemon:
        results = {route: found(*await asked(daemon, *route, [])) for route in TABLE}
    assert set(results.values()) == {"let in"}


@pytest.mark.parametrize(
    "path", ["/nothing", "/sleep", "/v1/nothing", "/docs", "/v1/chat/completions/", "//admin/pool"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_what_is_not_in_the_table_is_nowhere(daemon: FakeDaemon, method: str, path: str) -> None:
    assert (await asked(daemon, method, path, []))[0] == 401
    for scope in Scope:
        assert (await asked(daemon, method, path, bearer(scope)))[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "FOO"])
async def test_another_method_is_no_way_around(daemon: FakeDaemon, method: str) -> None:
    for path in ("/admin/pool", "/v1/models", "/v1/chat/completions", "/metrics", "/v1/arena/leaderboard"):
        assert (await asked(daemon, method, path, []))[0] in (400, 401)
        # Programs look with HEAD whether the models' list is there.
        probed = (method, path) == ("HEAD", "/v1/models")
        assert (await asked(daemon, method, path, bearer("admin")))[0] in ((200,) if probed else (400, 405))
