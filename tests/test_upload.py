"""Request bodies: all of them together have a memory, and each its time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import until
from tests.support.raw_client import RawClient, connected, once, post

PATH = "/v1/completions"
MIB = 1 << 20
SMALL = {"model": "alpha", "prompt": "small"}


def large(size: int) -> bytes:
    return b'{"model": "alpha", "prompt": "' + b"x" * (size - 32) + b'"}'


@contextlib.asynccontextmanager
async def holding(daemon: FakeDaemon, size: int, count: int) -> AsyncIterator[list[RawClient]]:
    """So many requests whose bodies are here, and whose answers are not."""
    daemon.engines["alpha"].chunks.hold()
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(daemon.port)) for _ in range(count)]
        for client in clients:
            client.request("POST", PATH, large(size))
        await until(lambda: daemon.view("alpha").running == count, "all to be asked")
        yield clients


async def test_what_is_over_the_memory_of_all_gets_503() -> None:
    memory = {"max_body_bytes": 2 * MIB, "body_memory_bytes": 8 * MIB}
    async with running_daemon(server=memory) as daemon, holding(daemon, MIB, 6) as clients:
        # Seven eighths of the memory are for large bodies.
        refused = await once(daemon.port, "POST", PATH, large(2 * MIB))
        assert (refused.status, refused.error()["code"]) == (503, "body_memory_full")
        assert refused.error()["type"] == "service_unavailable_error"
        assert int(refused.header("retry-after") or 0) >= 1
        assert daemon.view("alpha").running == 6
        # What is small has its own part.
        asking = asyncio.create_task(post(daemon.port, PATH, SMALL))
        await until(lambda: daemon.view("alpha").running == 7, "the small one to be asked")
        daemon.open_gates()
        assert (await asking).status == 200
        for client in clients:
            assert (await client.answer()).status == 200
        # With them their memory is free.
        assert (await once(daemon.port, "POST", PATH, large(2 * MIB))).status == 200


async def test_who_leaves_takes_its_body_along() -> None:
    memory = {"max_body_bytes": 2 * MIB, "body_memory_bytes": 4 * MIB}
    async with running_daemon(server=memory) as daemon:
        for _ in range(5):
            async with holding(daemon, MIB, 3) as clients:
                for client in clients:
                    client.leave()
                await daemon.idle("alpha")
        daemon.open_gates()
        assert (await once(daemon.port, "POST", PATH, large(2 * MIB))).status == 200


async def test_a_length_that_is_only_declared_takes_no_memory() -> None:
    memory = {"max_body_bytes": 2 * MIB, "body_memory_bytes": 4 * MIB}
    async with running_daemon(server=memory) as daemon, contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            client = await stack.enter_async_context(connected(daemon.port))
            client.request("POST", PATH, b"{", [("Content-Length", str(2 * MIB))])
        assert (await once(daemon.port, "POST", PATH, large(MIB))).status == 200


async def test_a_body_that_stands_still_gets_408() -> None:
    async with running_daemon(server={"body_timeout_s": 0.1}) as daemon:
        async with connected(daemon.port) as client:
            client.request("POST", PATH, b"{", [("Content-Length", "100")])
            answer = await client.answer()
            assert (answer.status, answer.error()["code"]) == (408, "request_timeout")
            assert answer.header("connection") == "close"
            assert await client.ended() == b""
        assert not daemon.engines["alpha"].loads


async def test_a_byte_now_and_then_is_too_slow_as_well() -> None:
    async with running_daemon(server={"body_timeout_s": 0.1}) as daemon, connected(daemon.port) as client:
        client.request("POST", PATH, b"", [("Content-Length", "1000000")])
        answering = asyncio.create_task(client.answer())
        while not answering.done():
            client.send(b" ")
            await asyncio.wait([answering], timeout=0.01)
        assert (await answering).status == 408


async def test_a_long_body_may_take_longer_than_that_if_it_comes() -> None:
    body = large(14 * 4096)
    async with running_daemon(server={"body_timeout_s": 1.0}) as daemon, connected(daemon.port) as client:
        client.request("POST", PATH, b"", [("Content-Length", str(len(body)))])
        for start in range(0, len(body), 4096):
            client.send(body[start : start + 4096])
            await asyncio.sleep(0.09)  # no wait for something: it is the pace that is tried
        assert (await client.answer()).status == 200


async def test_every_route_that_takes_a_body_has_the_limit() -> None:
    async with running_daemon(server={"max_body_bytes": 1000}) as daemon:
        found = daemon.daemon.app.openapi()["paths"]
        routes = [(method, path) for path, ops in found.items() for method, op in ops.items() if "requestBody" in op]
        assert len(routes) > 20
        for method, template in routes:
            path = template.replace("{", "").replace("}", "")
            assert (await once(daemon.port, method.upper(), path, b" " * 1001)).status == 413, path
