"""What nginx refuses by number or size: always in OpenAI's form, so that clients understand it."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest

from arena_server.config import ServerConfig
from tests.nginx.site import SITE, Certificates, Proxy, nginx
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import until
from tests.support.raw_client import RawClient

CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 3}
LARGEST = 64 << 20


async def burst(client: RawClient, path: str, count: int) -> list[int]:
    """The statuses of so many requests in one go."""
    for _ in range(count):
        client.request("GET", path)
    return [(await client.answer("GET")).status for _ in range(count)]


async def test_a_burst_of_requests(daemon: FakeDaemon, tmp_path: Path, certificates: Certificates) -> None:
    with nginx(tmp_path, daemon.port, certificates, allowed=["127.0.0.0/8"]) as proxy:
        async with proxy.connected() as client:
            statuses = await burst(client, "/v1/models", 500)
            assert set(statuses) == {200, 429}
            assert statuses[:201] == [200] * 201
            # The page's own files do not count, and others are not made to pay.
            assert await burst(client, "/web/icon.svg", 250) == [200] * 250
        async with proxy.connected("127.0.0.2") as other:
            assert await burst(other, "/v1/models", 10) == [200] * 10


async def test_the_refusal_of_a_burst(daemon: FakeDaemon, tmp_path: Path, certificates: Certificates) -> None:
    least = {"rate=20r/s": "rate=1r/m", "burst=200 nodelay": "burst=1 nodelay"}
    with nginx(tmp_path, daemon.port, certificates, replaced=least) as proxy:
        async with proxy.connected() as client:
            assert await burst(client, "/health", 3) == [200, 200, 429]
        answer = await proxy.post("/v1/chat/completions", CHAT)
        assert answer.status == 429
        assert answer.header("retry-after") == "1"
        assert (answer.error()["type"], answer.error()["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert daemon.engines["alpha"].loads == 0


async def test_too_many_at_the_same_time(daemon: FakeDaemon, proxy: Proxy) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(proxy.connected()) for _ in range(100)]
        for client in clients:
            client.post("/v1/chat/completions", {**CHAT, "stream": True})
        await until(lambda: len(alpha.inference) == 100, "all to reach the engine")
        refused = await proxy.post("/v1/chat/completions", CHAT)
        assert refused.status == 429
        assert refused.error()["code"] == "rate_limit_exceeded"
        clients[0].leave()
        await until(lambda: any(r.aborted for r in alpha.inference), "nginx to see that one has gone")
        alpha.chunks.release()
        assert (await proxy.post("/v1/chat/completions", CHAT)).status == 200


def test_the_largest_body_is_the_daemons() -> None:
    found = re.search(r"client_max_body_size (\d+)m;", SITE.read_text())
    assert found
    assert int(found[1]) << 20 == ServerConfig().max_body_bytes == LARGEST
    assert f"over {LARGEST} bytes" in SITE.read_text()


async def test_a_body_that_is_too_large(daemon: FakeDaemon, proxy: Proxy) -> None:
    async with proxy.connected() as client:
        # Refused before it is sent.
        client.request("POST", "/v1/chat/completions", headers=[("Content-Length", str(LARGEST + 1))])
        answer = await client.answer()
    assert answer.status == 413
    assert answer.error()["code"] == "body_too_large"


async def test_a_body_whose_length_nobody_has_told(
    daemon: FakeDaemon, tmp_path: Path, certificates: Certificates
) -> None:
    small = {"client_max_body_size 64m;": "client_max_body_size 1k;"}
    with nginx(tmp_path, daemon.port, certificates, replaced=small) as proxy:
        async with proxy.connected() as client:
            client.request("POST", "/v1/chat/completions", headers=[("Transfer-Encoding", "chunked")])
            client.send(b"800\r\n" + b" " * 0x800 + b"\r\n0\r\n\r\n")
            answer = await client.answer()
    assert answer.status == 413
    assert answer.error()["code"] == "body_too_large"


async def test_the_daemons_own_refusal_passes_unchanged(tmp_path: Path, certificates: Certificates) -> None:
    async with running_daemon(server={"max_body_bytes": 100}) as daemon:
        with nginx(tmp_path, daemon.port, certificates) as proxy:
            answer = await proxy.post("/v1/chat/completions", {"model": "alpha", "prompt": "x" * 100})
    assert answer.status == 413
    assert "over 100 bytes" in answer.error()["message"]


async def test_a_long_prompt_is_never_on_the_disk(daemon: FakeDaemon, proxy: Proxy) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with proxy.connected() as client:
        client.post("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "word " * 200_000}]})
        await until(lambda: alpha.inference, "the request to reach the engine")
        kept = proxy.open_files()  # where nginx unlinks such a file as soon as it is open
        alpha.chunks.release()
        assert (await client.answer()).status == 200
    assert kept == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_nothing_that_was_said_is_in_a_log(daemon: FakeDaemon, proxy: Proxy, path: str) -> None:
    secret = "xyzzy-plugh-7"
    body = {**CHAT, "messages": [{"role": "user", "content": secret}], "prompt": secret}
    headers = [("Referer", f"https://page/?q={secret}"), ("Cookie", f"c={secret}"), ("Authorization", secret)]
    assert secret in json.dumps((await proxy.post(f"{path}?q={secret}", body, headers)).json())
    await until(lambda: f"POST {path} HTTP" in proxy.access_log, "nginx to log the request")
    kept = {str(file): file.read_bytes() for file in proxy.home.rglob("*") if file.is_file()}
    assert [name for name, content in kept.items() if secret.encode() in content] == []
