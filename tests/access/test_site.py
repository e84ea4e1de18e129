"""What pages in a browser on the daemon's own machine can do: nothing, where they are another site's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arena_server.access.site import refuse_other_hosts, refuse_other_origins
from arena_server.errors import CrossSite
from tests.support.daemon_app import running_daemon
from tests.support.keys import access, bearer
from tests.support.raw_client import Answer, Header, once

PORT = 8000
FORWARDED = (b"x-forwarded-for", b"192.0.2.7")


def lets_in(*headers: tuple[bytes, bytes]) -> bool:
    try:
        refuse_other_hosts(headers, PORT)
    except CrossSite:
        return False
    return True


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST:9", "127.0.0.1", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000"]
)
def test_this_machine_s_own_names(host: str) -> None:
    assert lets_in((b"host", host.encode()))


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0:8000"),
        *("192.168.0.1:8000", "[::2]:8000", "user@localhost", "localhost:8000:8000", "", ":8000", "[localhost", "é"),
    ],
)
def test_other_names(host: str) -> None:
    assert not lets_in((b"host", host.encode("latin-1")))
    assert not lets_in((b"host", b"localhost"), (b"host", host.encode("latin-1")))


def test_who_sends_no_host_is_no_browser() -> None:
    assert lets_in()


@pytest.mark.parametrize(
    ("host", "good"),
    [
        *(("arena.example", True), ("arena.example:8443", True), ("10.0.0.5", True)),
        # A page can write the header of a proxy itself. Its own name has the daemon's port, as it came from there.
        *(("evil.example:8000", False), ("evil.example:08000", False), ("10.0.0.5:8000", False), ("", False)),
        *(("arena.example:" + "9" * 5000, False), ("a" * 5000, False)),
    ],
)
def test_through_a_proxy_on_this_machine(host: str, good: bool) -> None:
    assert lets_in((b"host", host.encode()), FORWARDED) is good


def test_a_daemon_on_the_port_of_http_itself() -> None:
    for port in (80, 443):
        with pytest.raises(CrossSite):
            refuse_other_hosts([(b"host", b"evil.example"), FORWARDED], port)


@pytest.mark.parametrize(
    ("host", "origin", "good"),
    [
        *(("localhost:8000", "http://localhost:8000", True), ("arena.example", "https://arena.example", True)),
        *(("localhost:8000", "http://localhost:3000", False), ("localhost:8000", "null", False)),
        *(("localhost:8000", "http://evil.example", False), ("localhost:8000", "", False)),
    ],
)
def test_origins(host: str, origin: str, good: bool) -> None:
    headers = [(b"host", host.encode()), (b"origin", origin.encode())]
    if good:
        refuse_other_origins(headers)
        return
    with pytest.raises(CrossSite):
        refuse_other_origins(headers)


# Through the door


REBOUND = ("Host", "evil.example:{port}")
PROXY = ("X-Forwarded-For", "192.0.2.7")
ELSEWHERE = ("Sec-Fetch-Site", "cross-site")
ORIGIN = ("Origin", "http://evil.example")
CHAT: dict[str, Any] = {"model": "alpha", "messages": [{"role": "user", "content": "a"}]}


async def answer_to(port: int, method: str, path: str, headers: list[Header]) -> Answer:
    body = json.dumps(CHAT).encode() if method == "POST" else b""
    return await once(port, method, path, body, [(name, value.format(port=port)) for name, value in headers])


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/admin/pool", "/metrics", "/nowhere"])
async def test_an_open_daemon_answers_no_other_site(path: str) -> None:
    method = "POST" if "chat" in path else "GET"
    plain = 404 if path == "/nowhere" else 200
    async with running_daemon() as daemon:

        async def status(*headers: Header) -> int:
            answer = await answer_to(daemon.port, method, path, list(headers))
            if answer.status == 403:
                assert answer.error()["code"] == "cross_site"
            return answer.status

        assert await status() == plain
        assert await status(("Host", f"127.0.0.1:{daemon.port}")) == plain
        assert await status(REBOUND) == 403
        assert await status(REBOUND, PROXY) == 403
        assert await status(("Host", "arena.example"), PROXY) == plain
        assert await status(("Host", "arena.example"), PROXY, ("Origin", "https://arena.example")) == plain
        assert await status(("Host", "arena.example"), PROXY, ORIGIN) == 403
        assert await status(ORIGIN) == 403
        assert await status(ELSEWHERE) == (403 if method == "POST" or "admin" in path else plain)


async def test_what_is_public_stays_so() -> None:
    async with running_daemon() as daemon:
        assert (await answer_to(daemon.port, "GET", "/health", [REBOUND, ORIGIN, ELSEWHERE])).status == 200


async def test_who_lets_other_machines_in_has_other_names() -> None:
    async with running_daemon(any_host=True) as daemon:
        statuses = [
            (await answer_to(daemon.port, "GET", "/v1/models", list(headers))).status
            for headers in ([REBOUND], [REBOUND, ORIGIN])
        ]
    assert statuses == [200, 403]


async def test_a_key_is_enough_but_for_orders_of_other_sites() -> None:
    async with running_daemon(access=access()) as daemon:

        async def status(path: str, *headers: Header) -> int:
            return (await answer_to(daemon.port, "GET", path, [*headers, *bearer("admin")])).status

        assert await status("/v1/models", REBOUND, ORIGIN, ELSEWHERE) == 200
        assert await status("/admin/pool", REBOUND, ORIGIN) == 200
        assert await status("/admin/pool", ELSEWHERE) == 403
        assert await status("/admin/nowhere", ELSEWHERE) == 403


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/alpha"])
async def test_programs_may_look_whether_it_is_there(path: str) -> None:
    async with running_daemon() as daemon:
        answer = await once(daemon.port, "HEAD", path)
        assert (answer.status, answer.body) == (200, b"")
        assert (await once(daemon.port, "HEAD", "/admin/events")).status == 405
