"""No spelling and no header leads past the door: not to orders, not to an engine's control routes, not to another's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.keys import access, bearer, key
from tests.support.leases import use
from tests.support.raw_client import Answer, Cut, Header, connected, once, post
from tests.support.sse import EventReader
from tests.test_relay_allowlist import BODY, CONTROL, JSON, TRICKS

pytestmark = pytest.mark.asyncio(loop_scope="module")

# What only an administrator may see, under other names.
TO_ORDERS = [
    "/admin/pool",
    "/admin/pool/",
    "/admin//pool",
    "/admin/./pool",
    "//admin/pool",
    "/./admin/pool",
    "/ADMIN/pool",
    "/%61dmin/pool",
    "/admin%2fpool",
    "/admin/pool%0a",
    "/admin/pool%00",
    "/admin/pool;",
    "/admin/pool?x=/health",
    "/admin/pool#/health",
    "/health/../admin/pool",
    "/health/%2e%2e/admin/pool",
    "/health%2f..%2fadmin%2fpool",
    "/health%3f/../admin/pool",
    "/web/../admin/pool",
    "/web/%2e%2e/admin/pool",
    "/web/..%2fadmin%2fpool",
    "/web/..\\admin\\pool",
    "/v1/models/../../admin/pool",
    "/v1/models/..%2f..%2fadmin%2fpool",
    "http://localhost/admin/pool",
    "http://localhost/health/../admin/pool",
    "/admin/keys",
    "/%61dmin/keys",
]

OVERRIDES: list[Header] = [
    ("X-Original-URL", "/health"),
    ("X-Rewrite-URL", "/health"),
    ("X-Forwarded-Prefix", "/health"),
    ("X-Forwarded-Path", "/health"),
    ("X-HTTP-Method-Override", "GET"),
    ("X-Forwarded-For", "127.0.0.1"),
    ("X-Forwarded-Host", "localhost"),
    ("Host", "localhost/health?"),
    ("Referer", "http://localhost/"),
    ("Origin", "http://localhost"),
    ("Upgrade", "websocket"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[FakeDaemon]:
    keys = {"inference": key("inference"), "arena": key("arena"), "other": key("other", "arena", "inference")}
    async with running_daemon(access=access(keys)) as running:
        await use(running, "alpha")
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def daemon(shared: FakeDaemon) -> FakeDaemon:
    """Its model alpha is awake, and has not been asked anything."""
    shared.engines["alpha"].requests.clear()
    return shared


async def asked(daemon: FakeDaemon, method: str, path: str, headers: list[Header]) -> Answer | None:
    """The answer; None if the connection was closed instead."""
    with contextlib.suppress(Cut):
        return await once(daemon.port, method, path, BODY if method == "POST" else b"", [JSON, *headers])
    return None


@pytest.mark.parametrize("path", TO_ORDERS)
async def test_no_spelling_leads_to_what_administrators_see(daemon: FakeDaemon, path: str) -> None:
    for headers, statuses in (([], (400, 401, 404)), (bearer("inference"), (400, 403, 404))):
        for method in ("GET", "POST"):
            answer = await asked(daemon, method, path, headers)
            # 404 without a key: a file of the page that is not there. 405: it is only to be had with GET.
            assert answer is None or answer.status in (*statuses, 405), answer
            assert answer is None or b"queue" not in answer.body


@pytest.mark.parametrize("header", OVERRIDES, ids=lambda header: header[0])
async def test_no_header_leads_there(daemon: FakeDaemon, header: Header) -> None:
    for headers, status in (([header], 401), ([header, *bearer("arena")], 403)):
        answer = await asked(daemon, "GET", "/admin/pool", headers)
        assert answer is None or answer.status == status


async def test_of_two_headers_the_worse_does_not_help(daemon: FakeDaemon) -> None:
    for headers in (
        [("Authorization", "Bearer nothing"), *bearer("inference")],
        [*bearer("inference"), ("Authorization", "Bearer nothing")],
        [("X-Api-Key", "nothing"), ("X-Api-Key", "nothing")],
    ):
        answer = await asked(daemon, "GET", "/admin/pool", headers)
        assert answer is not None
        assert answer.status in (401, 403)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
async def test_no_key_leads_to_an_engine_s_control_routes(daemon: FakeDaemon, method: str) -> None:
    async with connected(daemon.port) as client:
        for path in CONTROL:
            for headers, statuses in (([], (401,)), (bearer("inference"), (403, 404))):
                client.request(method, path, BODY, [JSON, *headers])
                assert (await client.answer(method)).status in statuses, path
    assert daemon.engines["alpha"].requests == []


@pytest.mark.parametrize("path", TRICKS)
async def test_no_spelling_leads_from_an_open_route_to_another(daemon: FakeDaemon, path: str) -> None:
    for method in ("POST", "GET"):
        for headers in ([], bearer("inference")):
            answer = await asked(daemon, method, path, headers)
            assert answer is None or answer.status in (400, 401, 404, 405)
    assert daemon.engines["alpha"].requests == []


# What belongs to another key


async def test_a_battle_is_its_own_key_s_alone(daemon: FakeDaemon) -> None:
    body = {"models": ["alpha", "beta"], "messages": [{"role": "user", "content": "a"}]}
    async with connected(daemon.port) as client:
        client.post("/v1/arena/battles", body, bearer("arena"))
        assert (await client.head())[0] == 200
        begun, *_ = await EventReader(client).all()
    battle_id = begun.data["id"]
    at, none = f"/v1/arena/battles/{battle_id}", "/v1/arena/battles/nothing"
    orders = [("GET", "", {}), ("POST", "/turns", {"content": "b"}), ("POST", "/vote", {"vote": "a"})]
    for method, what, order in orders:
        found = [
            await once(daemon.port, method, f"{battle}{what}", json.dumps(order).encode(), [JSON, *bearer("other")])
            for battle in (at, none)
        ]
        # In the same words: nobody learns which battles there are.
        assert [a.status for a in found] == [404, 404]
        assert found[0].body.replace(battle_id.encode(), b"nothing") == found[1].body
    assert (await once(daemon.port, "GET", at, b"", bearer("arena"))).status == 200
    assert (await post(daemon.port, f"{at}/vote", {"vote": "a"}, bearer("arena"))).status == 200
