"""The load: clients on keep-alive connections that take streamed chat answers and note when tokens come.

One program for both sides, so that what it costs itself is the same; only the socket it connects to differs.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from bench.processes import BenchError
from bench.stand_in import MODEL

# In each token's chunk exactly once, and in no other.
TOKEN_MARK = b'"token_ids"'
ANSWER_LIMIT_S = 60.0
SETTLE_S = 0.2
MOST_PAUSE_S = 0.02
PROMPT = "Two keepers share a lighthouse. Write what each of them says about the sea tonight, in turn, and no more."


@dataclass(frozen=True, slots=True)
class Target:
    """Where answers come from: a Unix socket, or a TCP port on this machine."""

    name: str
    address: str | int

    async def connect(self, counter: Counter) -> Connection:
        """A new connection, whose tokens `counter` counts."""
        loop = asyncio.get_running_loop()
        if isinstance(self.address, str):
            _, connection = await loop.create_unix_connection(lambda: Connection(counter), self.address)
        else:
            _, connection = await loop.create_connection(lambda: Connection(counter), "127.0.0.1", self.address)
        return connection


@dataclass(slots=True)
class Counter:
    """Tokens of all streams of a target."""

    tokens: int = 0


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection: an answer at a time (httptools calls the `on_` methods)."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._answered: asyncio.Future[None] | None = None
        self._tail = b""
        self._tokens = 0
        self._first = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    async def ask(self, request: bytes, tokens: int) -> float:
        """Take one whole answer; returns the seconds to its first chunk. Raises BenchError if it is not whole."""
        if self._transport.is_closing():
            raise BenchError("the connection was closed between two answers")
        self._answered = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._tail = b""
        self._tokens = 0
        self._first = 0.0
        began = time.perf_counter()
        self._transport.write(request)
        async with asyncio.timeout(ANSWER_LIMIT_S):
            await self._answered
        if self._parser.get_status_code() != 200 or self._tokens != tokens:
            raise BenchError(f"got status {self._parser.get_status_code()} and {self._tokens} of {tokens} tokens")
        return self._first - began

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(BenchError(f"the connection was lost in an answer: {exc}"))

    def on_body(self, body: bytes) -> None:
        """A piece of the answer, rid of HTTP's framing."""
        if not self._first:
            self._first = time.perf_counter()
        came = (self._tail + body).count(TOKEN_MARK)
        self._tail = body[1 - len(TOKEN_MARK) :]
        self._tokens += came
        self._counter.tokens += came

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)


def chat_request(tokens: int) -> bytes:
    """A streaming chat request as a client library sends it."""
    message = {"role": "user", "content": PROMPT}
    body = json.dumps({"model": MODEL, "messages": [message], "stream": True, "max_tokens": tokens}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
        b"Accept-Encoding: gzip, deflate\r\nUser-Agent: arena-server-bench\r\nAuthorization: Bearer none\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


async def first_token_times(target: Target, requests: int, tokens: int) -> list[float]:
    """One client, one request after another: seconds to the first chunk of each."""
    connection = await target.connect(Counter())
    request = chat_request(tokens)
    await connection.ask(request, tokens)  # the connection's first one is not counted
    times = [await connection.ask(request, tokens) for _ in range(requests)]
    connection.close()
    return times


@dataclass(slots=True)
class Load:
    """What many streams got in the measured time."""

    tokens: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    first_token_s: list[float] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """All streams together."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Demand:
    """What many streams ask for: answers of so many tokens, which take `answer_s` each, measured for `seconds`."""

    streams: int
    tokens: int
    answer_s: float
    seconds: float


async def many_streams(target: Target, demand: Demand, cpu_s: Callable[[], float]) -> Load:
    """Clients that ask again as soon as they have their answer, measured once all run.

    They begin spread over the time of one answer, lest all ask at the same moment ever after, and each pauses a
    little before it asks again: the last chunks of answers come with a step of the engine, and requests would
    always come just when every other stream's chunk does. `cpu_s` tells the CPU seconds that what is measured has
    used so far.
    """
    counter, load = Counter(), Load()
    measuring = ended = False
    request = chat_request(demand.tokens)
    rng = random.Random(demand.streams)

    async def client(delay_s: float) -> None:
        connection = await target.connect(counter)
        await asyncio.sleep(delay_s)
        while not ended:
            await asyncio.sleep(rng.uniform(0, MOST_PAUSE_S))
            counts = measuring
            first_s = await connection.ask(request, demand.tokens)
            if counts:
                load.first_token_s.append(first_s)
        connection.close()

    try:
        async with asyncio.TaskGroup() as clients:
            for _ in range(demand.streams):
                clients.create_task(client(rng.uniform(0, demand.answer_s)))
            await asyncio.sleep(demand.answer_s + SETTLE_S)
            began, before, used = time.perf_counter(), counter.tokens, cpu_s()
            measuring = True
            await asyncio.sleep(demand.seconds)
            measuring = False
            load.tokens, load.cpu_s = counter.tokens - before, cpu_s() - used
            load.seconds = time.perf_counter() - began
            ended = True
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return load
