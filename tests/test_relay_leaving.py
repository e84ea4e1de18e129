"""The client leaves: at whatever moment, its lease ends, its engine's request is aborted, and a load goes on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from arena_server.pool.residency import Residency
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import turns, until
from tests.support.leases import stands_still, use
from tests.support.logs import logged
from tests.support.raw_client import connected, post
from tests.support.replies import Received, Reply

ASK = {"model": "alpha", "prompt": "one two three", "max_tokens": 3, "stream": True}


@pytest.fixture
async def daemon(caplog: pytest.LogCaptureFixture) -> AsyncIterator[FakeDaemon]:
    """Checks that nobody keeps a lease or a place, and that a client's leaving is no error in the log."""
    async with running_daemon() as running:
        yield running
        for name, engine in running.engines.items():
            await running.idle(name)
            if engine.loaded:
                engine.chunks.release()
                answer = await post(running.port, "/v1/completions", {**ASK, "model": name})
                assert answer.status == 200
        assert not running.pool._core.leases
    assert [r.getMessage() for r in logged(caplog) if r.levelno > logging.WARNING] == []


async def aborted(request: Received) -> None:
    await until(lambda: request.aborted, "the engine to see that the client has gone")


async def test_in_the_queue(daemon: FakeDaemon) -> None:
    leases = [await daemon.pool.acquire([name]) for name in ("alpha", "beta")]
    async with connected(daemon.port) as client:
        client.post("/v1/completions", {**ASK, "model": "org/gamma"})
        await until(lambda: daemon.view("org/gamma").waiting == 1, "the request to wait")
        client.leave()
        await until(lambda: daemon.view("org/gamma").waiting == 0, "the request to be given up")
    for lease in leases:
        lease.release()
    await turns()
    assert daemon.engines["org/gamma"].loads == 0


async def test_during_the_load_it_caused(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.load_gate.hold()
    async with connected(daemon.port) as client:
        client.post("/v1/completions", ASK)
        await until(lambda: alpha.progress, "the load to begin")
        client.leave()
        await until(lambda: daemon.view("alpha").waiting == 0, "the request to be given up")
    alpha.load_gate.release()
    await until(lambda: daemon.view("alpha").residency is Residency.AWAKE, "the load to go on")
    assert alpha.inference == []


async def test_one_of_two_during_their_load(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.load_gate.hold()
    async with connected(daemon.port) as stays, connected(daemon.port) as leaves:
        for client in (leaves, stays):
            client.post("/v1/completions", ASK)
        await until(lambda: daemon.view("alpha").waiting == 2, "both to wait")
        leaves.leave()
        await until(lambda: daemon.view("alpha").waiting == 1, "one to be gone")
        alpha.load_gate.release()
        assert (await stays.answer()).status == 200
    assert len(alpha.inference) == 1


@pytest.mark.parametrize("delay", range(6))
async def test_around_the_moment_of_the_grant(daemon: FakeDaemon, delay: int) -> None:
    """The going is seen some turns of the loop after it; this walks it past the grant."""
    alpha = daemon.engines["alpha"]
    alpha.load_gate.hold()
    async with connected(daemon.port) as client:
        client.post("/v1/completions", ASK)
        await until(lambda: alpha.progress, "the load to begin")
        client.leave()
        await turns(delay)
        alpha.load_gate.release()
        await until(lambda: daemon.view("alpha").residency is Residency.AWAKE, "the load to end")
        await daemon.idle("alpha")


async def test_before_the_first_byte_of_the_answer(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with connected(daemon.port) as client:
        client.post("/v1/completions", ASK)
        request = await alpha.request()
        assert daemon.view("alpha").running == 1
        client.leave()
        await aborted(request)
        await daemon.idle("alpha")
    assert request.sent == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_between_two_chunks(daemon: FakeDaemon, stream: bool) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    if not stream:
        alpha.reply = lambda _: Reply([b"{", b"}"], length=2)
    async with connected(daemon.port) as client:
        client.post("/v1/completions", ASK)
        alpha.chunks.release(1)
        await client.head()
        client.leave()
        await aborted(alpha.inference[0])
        await daemon.idle("alpha")
    assert alpha.inference[0].sent == 1


async def test_politely_between_two_chunks(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with connected(daemon.port) as client:
        client.post("/v1/completions", ASK)
        alpha.chunks.release(1)
        await client.chunk_after_head()
        client.close()
        await aborted(alpha.inference[0])


async def test_while_the_engine_waits_for_a_slow_reader(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.reply = lambda _: Reply([b"x" * (1 << 16)] * 500, headers=[("content-type", "text/event-stream")])
    async with connected(daemon.port, receive_buffer=1 << 14) as client:
        client.post("/v1/completions", ASK)
        request = await alpha.request()
        await stands_still(request)
        client.leave()
        await aborted(request)
        await daemon.idle("alpha")


async def test_right_after_the_last_byte(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        client.post("/v1/completions", ASK)
        await client.answer()
        client.leave()
    await daemon.idle("alpha")
    assert daemon.engines["alpha"].inference[0].finished


async def test_just_as_the_last_bytes_are_sent(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    for delay in range(6):
        async with connected(daemon.port) as client:
            client.post("/v1/completions", ASK)
            await alpha.request(delay)
            alpha.chunks.release(4)
            await turns(delay)
            client.leave()
            await daemon.idle("alpha")


async def test_in_the_middle_of_its_own_request(daemon: FakeDaemon) -> None:
    await use(daemon, "alpha")
    async with connected(daemon.port) as client:
        client.request("POST", "/v1/completions", b'{"model": "al', [("Content-Length", "1000")])
        await client.drain()
        client.leave()
    await daemon.idle("alpha")
    assert daemon.engines["alpha"].inference == []


async def test_when_the_load_it_waits_for_fails(daemon: FakeDaemon, caplog: pytest.LogCaptureFixture) -> None:
    alpha = daemon.engines["alpha"]
    alpha.fail_loads("broken weights")
    for delay in range(6):
        alpha.load_gate.hold()
        async with connected(daemon.port) as client:
            client.post("/v1/completions", ASK)
            await until(lambda: alpha.progress, "the load to begin")
            client.leave()
            await turns(delay)
            alpha.load_gate.release()
            await daemon.idle("alpha")
            await until(lambda: not alpha.remains, "the remains to be gone")
            daemon.pool._core.models["alpha"].failures = 0
    errors = [r for r in caplog.records if r.levelno > logging.WARNING]
    assert all("could not be loaded: broken weights" in r.getMessage() for r in errors)
    caplog.clear()
