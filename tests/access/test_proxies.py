"""Whose word counts for where a request comes from."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from arena_server.config import ServerConfig
from arena_server.course import Course
from arena_server.serve import http_settings
from tests.support.daemon_app import running_daemon
from tests.support.raw_client import Header, post

BODY = {"model": "alpha", "prompt": "a"}
LOCAL = "127.0.0.1"


class Addresses:
    """Hears from where requests come."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def began(self, course: Course) -> None:
        self.heard.append(course.caller.address)

    def ended(self, course: Course) -> None:
        pass


async def address_of(trusted: Sequence[str], *headers: Header) -> str:
    addresses = Addresses()
    async with running_daemon(server={"trusted_proxies": trusted}, listeners=[addresses]) as daemon:
        assert (await post(daemon.port, "/v1/completions", BODY, headers)).status == 200
    (heard,) = addresses.heard
    return heard


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        # Nobody is trusted, or somebody else.
        ([], "1.2.3.4", LOCAL),
        (["10.0.0.0/8"], "1.2.3.4", LOCAL),
        (["127.0.0.2", "::1"], "1.2.3.4", LOCAL),
        # The peer is: the last one that is no proxy itself.
        ([LOCAL], "1.2.3.4", "1.2.3.4"),
        (["127.0.0.0/8"], "1.2.3.4", "1.2.3.4"),
        ([LOCAL], "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ([LOCAL, "10.0.0.0/8"], "6.6.6.6, 1.2.3.4, 10.1.1.1, 10.2.2.2", "1.2.3.4"),
        ([LOCAL, "10.0.0.0/8"], "6.6.6.6, 10.1.1.1, 1.2.3.4", "1.2.3.4"),
        ([LOCAL], "10.0.0.1, 2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        # What is no address counts as one that is not known, and not as whatever it says.
        ([LOCAL], "nobody", ""),
        ([LOCAL], "", LOCAL),
    ],
)
async def test_only_a_trusted_proxy_says_where_a_request_comes_from(
    trusted: list[str], forwarded: str, address: str
) -> None:
    assert await address_of(trusted, ("X-Forwarded-For", forwarded)) == address


async def test_several_headers_are_one_list() -> None:
    headers = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "1.2.3.4")]
    assert await address_of([LOCAL], *headers) == "1.2.3.4"


async def test_other_headers_say_nothing() -> None:
    headers = [("X-Real-IP", "6.6.6.6"), ("Forwarded", "for=6.6.6.6"), ("X-Client-IP", "6.6.6.6")]
    assert await address_of([LOCAL], *headers) == LOCAL


async def test_a_variable_of_uvicorn_s_trusts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert await address_of([], ("X-Forwarded-For", "6.6.6.6")) == LOCAL


async def test_limits_count_the_client_and_not_the_proxy() -> None:
    limits = {"address_limits": {"requests_per_minute": 1}}
    async with running_daemon(access=limits) as daemon:
        for last in range(3):
            at = [("X-Forwarded-For", f"6.6.6.6, 1.2.3.{last}")]
            assert (await post(daemon.port, "/v1/completions", BODY, at)).status == 200
        # Nor does it help to write something in front.
        at = [("X-Forwarded-For", "7.7.7.7, 1.2.3.1")]
        assert (await post(daemon.port, "/v1/completions", BODY, at)).status == 429


def test_the_daemon_and_its_tests_trust_the_same() -> None:
    # tests/support/server.py serves with the same settings; this is what the process does with them.
    settings = http_settings(lambda *_: None, ServerConfig(trusted_proxies=("10.0.0.0/8",)), None)  # type: ignore[arg-type]
    assert (settings.proxy_headers, settings.forwarded_allow_ips) == (True, ["10.0.0.0/8"])
