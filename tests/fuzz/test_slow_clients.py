"""Two thousand clients that send a byte at a time, or read nothing: they cost what they sent, and nobody an answer."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from arena_server.engine.client import EngineClient
from arena_server.file_limit import raise_file_limit
from tests.support.daemon_app import running_daemon
from tests.support.gate import until
from tests.support.raw_client import post

CLIENTS = 2000
ROUNDS = 3
# The good client's answer may take so long beside them, in which it takes 5 ms alone; machines of tests are busy.
MOST_S = 2.0
MOST_BYTES_EACH = 64 << 10

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"model": "alpha", "prompt": "' + b"a" * 1000 + b'"}'
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY)
STREAM = b'{"model": "beta", "stream": true, "prompt": "' + b"b" * 1000 + b'"}'
# What each kind has sent when the slow part begins, and the bytes that then come one by one.
KINDS = (
    (b"", HEAD),
    (WHOLE, BODY),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n400\r\n", BODY),
    (HEAD + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM, b""),  # reads nothing of its answer
)


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Both ends of each connection are here, and one to an engine for some."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if raise_file_limit() < 3 * CLIENTS:
        pytest.skip(f"needs {3 * CLIENTS} open files, and the hard limit is {before[1]}")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.asynccontextmanager
async def slow_clients(port: int) -> AsyncIterator[list[socket.socket]]:
    """Connected, and having sent what their kind sends at once."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as held:

        async def connect(number: int) -> socket.socket:
            sock = held.enter_context(socket.socket())
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, KINDS[number % len(KINDS)][0])
            return sock

        found = []
        for first in range(0, CLIENTS, 100):  # no more at once than the port's backlog has places
            found += await asyncio.gather(*(connect(n) for n in range(first, first + 100)))
        yield found


async def good_answer(port: int) -> float:
    """How long one takes, in seconds."""
    before = time.monotonic()
    answer = await post(port, "/v1/completions", {"model": "alpha", "prompt": "good"})
    assert (answer.status, answer.json()["choices"][0]["text"]) == (200, "good good good ")
    return time.monotonic() - before


async def test_two_thousand_slow_clients_keep_nobody_from_an_answer() -> None:
    async with running_daemon() as daemon:
        await good_answer(daemon.port)
        alone_s = await good_answer(daemon.port)
        daemon.engines["beta"].chunks.hold()
        process = psutil.Process()
        before = process.memory_info().rss
        async with slow_clients(daemon.port) as clients:
            streams = CLIENTS // len(KINDS)
            await until(lambda: daemon.view("beta").running == streams, "all to be here")
            took_s = [await good_answer(daemon.port)]
            for number in range(ROUNDS):
                for index, client in enumerate(clients):
                    client.send(KINDS[index % len(KINDS)][1][number : number + 1])
                took_s += [await good_answer(daemon.port) for _ in range(5)]
            grown = process.memory_info().rss - before
            assert daemon.view("beta").running == streams
        assert max(took_s) < MOST_S, f"{took_s}, and alone {alone_s:.3f} s"
        assert grown < CLIENTS * MOST_BYTES_EACH, f"{grown >> 20} MiB"
        await daemon.come_to_rest()


async def test_an_engine_that_is_behind_with_its_connections_is_not_gone(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as held:
        listener.bind(str(path))
        listener.listen(0)
        waiting = held.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(path))
        one_more = held.enter_context(socket.socket(socket.AF_UNIX))
        one_more.setblocking(False)
        with pytest.raises(BlockingIOError):
            one_more.connect(str(path))
        connecting = asyncio.create_task(EngineClient(path).connect())
        await asyncio.wait([connecting], timeout=0.05)
        assert not connecting.done()
        for _ in range(2):
            held.enter_context(await asyncio.to_thread(lambda: listener.accept()[0]))
        (await connecting).abort()
