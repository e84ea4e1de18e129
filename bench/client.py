"""The load: clients on keep-alive connections that take streamed chat answers and note when tokens come.

One program for both sides, so that what it costs itself is the same; only the socket it connects to differs.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
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
    """Where answers come from: a Unix socket, or a TCP port on this machine; and what is asked for there."""

    name: str
    address: str | int
    model: str = MODEL
    key: str = "none"
    token_mark: bytes = TOKEN_MARK  # in the piece of a stream that brings a token exactly once, and in no other
    merges: bool = False  # an engine that is ahead of its clients puts several tokens into one such piece

    async def connect(self, counter: Counter | None = None) -> Connection:
        """A new connection, whose tokens `counter` counts."""
        loop = asyncio.get_running_loop()
        made = partial(Connection, counter or Counter(), self.token_mark, merges=self.merges)
        if isinstance(self.address, str):
            _, connection = await loop.create_unix_connection(made, self.address)
        else:
            _, connection = await loop.create_connection(made, "127.0.0.1", self.address)
        return connection

    def chat_request(self, tokens: int) -> bytes:
        """A request for a streamed chat answer of so many tokens, as a client library sends it."""
        message = {"role": "user", "content": PROMPT}
        asked = {"model": self.model, "messages": [message], "stream": True, "max_tokens": tokens, "ignore_eos": True}
        body = json.dumps(asked).encode()
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
            b"Accept-Encoding: gzip, deflate\r\nUser-Agent: arena-server-bench\r\nAuthorization: Bearer %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (self.key.encode(), len(body), body)
        )


@dataclass(slots=True)
class Counter:
    """Tokens of all streams of a target."""

    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: when it was asked for, and when tokens came (seconds of time.perf_counter)."""

    asked: float
    times: Sequence[float]  # one for each read that brought tokens
    tokens: int

    @property
    def first_s(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.asked

    @property
    def per_token_s(self) -> float:
        """Mean seconds between two tokens (`vllm bench serve` calls it TPOT); 0 for an answer of one."""
        return (self.times[-1] - self.times[0]) / max(1, self.tokens - 1)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection: an answer at a time (httptools calls the `on_` methods)."""

    def __init__(self, counter: Counter, token_mark: bytes = TOKEN_MARK, *, merges: bool = False) -> None:
        self._counter = counter
        self._merges = merges
        self._mark = token_mark
        self._answered: asyncio.Future[None] | None = None
        self._tail = b""
        self._tokens = 0
        self.times: list[float] = []  # when tokens of the answer in hand came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    async def ask(self, request: bytes, tokens: int) -> Answer:
        """Take one whole answer of so many tokens. Raises BenchError if it is not whole."""
        if self._transport.is_closing():
            raise BenchError("the connection was closed between two answers")
        self._answered = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._tail = b""
        self._tokens = 0
        self.times = []
        asked = time.perf_counter()
        self._transport.write(request)
        async with asyncio.timeout(ANSWER_LIMIT_S):
            await self._answered
        if self._merges and 0 < self._tokens < tokens:
            self._counter.tokens += tokens - self._tokens  # which of its pieces had more than one is not known
            self._tokens = tokens
        if self._parser.get_status_code() != 200 or self._tokens != tokens:
            raise BenchError(f"got status {self._parser.get_status_code()} and {self._tokens} of {tokens} tokens")
        return Answer(asked, self.times, self._tokens)

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
        joined = self._tail + body
        came = joined.count(self._mark)
        # Shorter than a mark, so that none is counted twice.
        self._tail = joined[1 - len(self._mark) :]
        if came:
            self.times.append(time.perf_counter())
            self._tokens += came
            self._counter.tokens += came

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)


async def first_token_times(target: Target, requests: int, tokens: int) -> list[float]:
    """One client, one request after another: seconds to the first token of each."""
    connection = await target.connect()
    request = target.chat_request(tokens)
    await connection.ask(request, tokens)  # the connection's first one is not counted
    times = [(await connection.ask(request, tokens)).first_s for _ in range(requests)]
    connection.close()
    return times


@dataclass(slots=True)
class Load:
    """What many streams got in the measured time."""

    tokens: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    answers: list[Answer] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """All streams together."""
        return self.tokens / self.seconds

    @property
    def first_token_s(self) -> list[float]:
        """Seconds to the first token of each answer that was asked for in that time."""
        return [answer.first_s for answer in self.answers]


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
    request = target.chat_request(demand.tokens)
    rng = random.Random(demand.streams)

    async def client(delay_s: float) -> None:
        connection = await target.connect(counter)
        await asyncio.sleep(delay_s)
        while not ended:
            await asyncio.sleep(rng.uniform(0, MOST_PAUSE_S))
            counts = measuring
            answer = await connection.ask(request, demand.tokens)
            if counts:
                load.answers.append(answer)
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
