"""The site as a whole: it loads without a warning, speaks TLS, says who asks, and outlives the daemon."""

from __future__ import annotations

import dataclasses
import re
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from arena_server.request_id import sane
from tests.nginx.recorder import recording
from tests.nginx.site import Certificates, Proxy, binary, nginx
from tests.support.daemon_app import FakeDaemon
from tests.support.gate import LIMIT_S
from tests.support.raw_client import once

CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 2}


def test_nginx_finds_nothing_to_say(proxy: Proxy) -> None:
    command = [binary(), "-t", "-p", str(proxy.home), "-c", str(proxy.home / "nginx.conf")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S).stderr
    # Of the log that it has before it reads its configuration, which is root's.
    said = re.sub(r"nginx: \[alert\] could not open error log file.*\n", "", said)
    assert re.fullmatch(r"nginx: .* syntax is ok\nnginx: .* test is successful\n", said), said


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls(daemon: FakeDaemon, proxy: Proxy, version: ssl.TLSVersion) -> None:
    """The client trusts nobody but the test's authority."""
    proxy.tls.minimum_version = proxy.tls.maximum_version = version
    assert (await proxy.post("/v1/chat/completions", CHAT)).status == 200


async def test_who_does_not_know_the_authority_is_not_talked_to(daemon: FakeDaemon, proxy: Proxy) -> None:
    stranger = dataclasses.replace(proxy, tls=ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        await stranger.get("/health")


async def test_http_leads_to_https(daemon: FakeDaemon, proxy: Proxy) -> None:
    for method in ("GET", "POST"):
        answer = await once(proxy.plain_port, method, "/v1/chat/completions?x=1")
        assert answer.status == 308
        assert answer.header("location") == f"https://localhost:{proxy.port}/v1/chat/completions?x=1"
    assert daemon.engines["alpha"].loads == 0


async def test_what_the_daemon_learns_of_the_client(tmp_path: Path, certificates: Certificates) -> None:
    lies = [("X-Forwarded-For", "10.9.8.7"), ("X-Real-IP", "10.9.8.7"), ("Forwarded", "for=10.9.8.7")]
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with recording() as upstream:
        with nginx(tmp_path, upstream.port, certificates) as proxy:
            await proxy.get("/health", [*lies, ("X-Forwarded-Proto", "http"), ("traceparent", trace)])
            assert upstream.header("x-forwarded-for") == ["127.0.0.1"]
            assert upstream.header("x-real-ip") == ["127.0.0.1"]
            assert upstream.header("x-forwarded-proto") == ["https"]
            assert upstream.header("forwarded") == []
            assert upstream.header("traceparent") == [trace]
            assert upstream.header("host") == ["localhost"]
            await proxy.get("/health", [("Host", f"gpu.example:{proxy.port}")])
            assert upstream.header("host") == [f"gpu.example:{proxy.port}"]


async def test_request_ids(tmp_path: Path, certificates: Certificates) -> None:
    async with recording() as upstream:
        with nginx(tmp_path, upstream.port, certificates) as proxy:
            for own in ("mine-1", 'a/b=c+"d'):
                assert sane(own)
                await proxy.get("/health", [("X-Request-ID", own)])
                assert upstream.header("x-request-id") == [own]
            for unfit in ("", "two words", "a" * 129, "\xe9"):
                assert not sane(unfit)
                await proxy.get("/health", [("X-Request-ID", unfit)] if unfit else [])
                (made,) = upstream.header("x-request-id")
                assert re.fullmatch("[0-9a-f]{32}", made)
            refused = await proxy.get("/admin", [("X-Request-ID", "mine-2")])
            assert refused.header("x-request-id") == "mine-2"


async def test_a_daemon_that_is_down_and_comes_back(tmp_path: Path, certificates: Certificates) -> None:
    down = socket.socket()
    down.bind(("127.0.0.1", 0))  # nobody else gets the port, and nobody listens
    with nginx(tmp_path, down.getsockname()[1], certificates) as proxy:
        for answer in (await proxy.get("/health"), await proxy.post("/v1/chat/completions", CHAT)):
            assert answer.status == 502
            assert answer.header("retry-after") == "5"
            assert answer.error()["code"] == "server_unreachable"
        down.listen()
        async with recording(down):
            assert (await proxy.get("/health")).status == 200


async def test_connections_to_the_daemon_are_kept_and_one_that_it_closed_does_no_harm(
    tmp_path: Path, certificates: Certificates
) -> None:
    async with recording() as upstream:
        with nginx(tmp_path, upstream.port, certificates) as proxy:
            for _ in range(3):
                assert (await proxy.get("/health")).status == 200
            assert len(upstream.connections) == 1
            assert upstream.header("connection") == []
            for kept in upstream.connections:
                kept.close()
            assert (await proxy.get("/health")).status == 200


async def test_the_daemons_errors_pass_unchanged(daemon: FakeDaemon, proxy: Proxy) -> None:
    answer = await proxy.post("/v1/chat/completions", {**CHAT, "model": "nobody"})
    assert (answer.status, answer.error()["code"]) == (404, "model_not_found")
    daemon.engines["alpha"].load_error = RuntimeError("broken")
    answer = await proxy.post("/v1/chat/completions", CHAT)
    assert answer.status == 503
    assert answer.error()["code"] == "model_unavailable"
    assert answer.header("retry-after")
