"""The HTTP client for a model on another server: aiohttp, connections used again, bytes handed on as they come.

Imported with aiohttp, which takes 0.3 s: by `RemoteEngine.load`, in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import aiohttp
from yarl import URL

from arena_server import __version__
from arena_server.clock import Clock
from arena_server.engine.client import EngineLost, EngineUnreachable, Header, Taker
from arena_server.engine.remote_failures import (
    BUSY,
    KEY_REFUSED,
    Failure,
    busy,
    failure_of,
    key_refused,
    lost_within,
    no_status,
    pause_s,
    redirected,
)
from arena_server.engine.remote_text import Mask
from arena_server.engine.remote_url import BackendUrl

# Under the 5 s after which vLLM closes an idle connection: a request sent at that moment would be lost.
IDLE_CONNECTION_S = 4.0
# Some hosted APIs' security headers are longer than aiohttp's 8 KB.
LONGEST_HEADER_BYTES = 64 << 10
LONGEST_REFUSAL_BYTES = 64 << 10
REFUSAL_S = 5.0
# aiohttp writes more than this at once only from a file.
MOST_AT_ONCE_BYTES = 1 << 20

# What aiohttp raises; RuntimeError: who reads from a connection that was closed meanwhile.
TROUBLE = (aiohttp.ClientError, TimeoutError, OSError, ValueError, RuntimeError)

# All that a remote server is told of a client's request, beside its body: allowlists, as what else a client sends (its
# key, its cookies, its address) is no business of a third party, nor what else that answers any of the client's.
SENT = frozenset(
    b"content-type accept x-request-id traceparent openai-beta anthropic-version anthropic-beta".split(),
)
KEPT = frozenset(
    b"content-type content-length content-encoding content-disposition cache-control retry-after".split(),
)


@dataclass(frozen=True, slots=True)
class RemoteLimits:
    """How long to wait for a connection and for the next byte, in seconds, and how many more tries there are."""

    connect_timeout_s: float
    timeout_s: float
    retries: int


class Watch(Protocol):
    """Hears how the server does."""

    def gone(self, reason: str) -> None:
        """A request found no way to it."""
        ...

    def doubted(self) -> None:
        """Something went wrong with a request, which may be the server's end or not."""
        ...


class RemoteAnswer:
    """An answer while it comes; implements `Response`."""

    def __init__(self, client: RemoteClient, response: aiohttp.ClientResponse, mask: Mask) -> None:
        """`mask` hides the daemon's key in the words of a refusal."""
        self.status = response.status
        self._mask = mask if response.status >= 400 else Mask(None)
        self.headers: list[Header] = [(n, v) for n, v in response.raw_headers if n.lower() in KEPT]
        self._client = client
        self._response = response

    def header(self, name: str) -> str | None:
        """One header, of all that came."""
        return self._response.headers.get(name)

    async def chunks(self, taker: Taker | None = None) -> AsyncIterator[bytes]:
        """See `Response`; all of it comes from here."""
        while True:
            try:
                chunk = await self._response.content.readany()
            except TROUBLE as e:
                raise self._client.broke_off(e) from e
            if not chunk:
                break
            self._client.heard(self.status)
            if shown := self._mask.piece(chunk):
                yield shown
        if rest := self._mask.rest():
            yield rest

    async def read(self) -> bytes:
        """See `Response`."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def beginning(self, most_bytes: int, within_s: float) -> bytes:
        """So much of it as comes in that time; what becomes of the rest is no matter."""
        body = bytearray()
        with contextlib.suppress(*TROUBLE):
            async with asyncio.timeout(within_s):
                while len(body) < most_bytes and (chunk := await self._response.content.readany()):
                    body += chunk
        return self._mask.whole(bytes(body[:most_bytes]))

    def close(self) -> None:
        """Close the connection, unless the answer is whole: then the next may use it."""
        self._response.close()


class RemoteClient:
    """Asks one remote server for one model; as many requests at a time as there are callers."""

    def __init__(
        self,
        model: str,
        url: BackendUrl,
        key: str | None,
        limits: RemoteLimits,
        watch: Watch,
        clock: Clock,
        proxy: str | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`model` is its configured name; `pause` waits between two tries."""
        self._model = model
        self._url = url
        self._key = key
        self._limits = limits
        self._watch = watch
        self._clock = clock
        self._pause = pause
        self._proxy = proxy
        self._heard: float | None = None
        own = {"user-agent": f"arena-server/{__version__}", "accept-encoding": "identity"}
        self._session = aiohttp.ClientSession(
            # No limit of its own: who waits, and for how long, is the pool's to say.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S),
            headers={**own, "authorization": f"Bearer {key}"} if key is not None else own,
            skip_auto_headers=("accept", "content-type"),
            cookie_jar=aiohttp.DummyCookieJar(),
            # What a server compresses although it was asked not to goes on as it is, with the header that says so.
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect_timeout_s, sock_read=limits.timeout_s),
            max_line_size=LONGEST_HEADER_BYTES,
            max_field_size=LONGEST_HEADER_BYTES,
        )

    def post(self, path: str, headers: Iterable[Header], body: bytes) -> RemoteExchange:
        """See `Client`. Raises RemoteRefuses, too, where the server does not take the request.

        The path goes without its query: some gateways take `?model=` from there, over the body's, and others a key.
        """
        path = path.partition("?")[0]
        kept = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in headers if n.lower() in SENT]
        return RemoteExchange(lambda: self._asked(path, kept, body))

    def get(self, path: str) -> RemoteExchange:
        """See `Client`; asked once, and whatever the answer is."""
        return RemoteExchange(lambda: self._got(path))

    def apart(self) -> RemoteClient:
        """See `Client`."""
        return self

    def heard(self, status: int) -> None:
        """Some of an answer has come (for RemoteAnswer)."""
        if status < 400:
            self._heard = self._clock.now()

    def heard_within(self, seconds: float) -> bool:
        """Whether some of a good answer came in the last seconds."""
        return self._heard is not None and self._clock.now() - self._heard <= seconds

    def broke_off(self, error: Exception) -> EngineLost:
        """What the reader of an answer is told (for RemoteAnswer)."""
        self._watch.doubted()
        return lost_within(error, self._url.origin, self._limits.timeout_s)

    async def close(self) -> None:
        """Close all connections; who reads an answer is told."""
        await self._session.close()

    async def _asked(self, path: str, headers: list[tuple[str, str]], body: bytes) -> RemoteAnswer:
        """Ask until there is an answer, or no more tries."""
        for tries in itertools.count(1):
            last = tries > self._limits.retries
            try:
                answer = await self._once("POST", path, headers, body)
            except _NoAnswer as e:
                if last or not e.failure.again:
                    raise self._given_up(e.failure.error) from e
                await self._pause(pause_s(tries, None) or 0.0)
                continue
            if answer.status not in BUSY:
                return self._checked(answer)
            retry_after = answer.header("retry-after")
            wait_s = None if last else pause_s(tries, retry_after)
            if wait_s is None:
                raise busy(self._model, answer.status, await self._words(answer), retry_after)
            answer.close()
            await self._pause(wait_s)
        raise AssertionError("unreachable")

    async def _got(self, path: str) -> RemoteAnswer:
        try:
            return await self._once("GET", path, [], b"")
        except _NoAnswer as e:
            raise e.failure.error from e

    async def _once(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> RemoteAnswer:
        """Ask once. Raises _NoAnswer."""
        if self._session.closed:  # while this waited for its next try
            raise _NoAnswer(Failure(EngineUnreachable(f"the connection to {self._url.origin} is closed"), again=False))
        data = io.BytesIO(body) if len(body) > MOST_AT_ONCE_BYTES else body
        url = URL(self._url.at(path), encoded=True)
        try:
            response = await self._session.request(
                method, url, headers=headers, data=data or None, allow_redirects=False, proxy=self._proxy
            )
        except TROUBLE as e:
            limits = self._limits
            raise _NoAnswer(failure_of(e, self._url.origin, limits.connect_timeout_s, limits.timeout_s)) from e
        self.heard(response.status)
        return RemoteAnswer(self, response, Mask(self._key))

    def _checked(self, answer: RemoteAnswer) -> RemoteAnswer:
        if not 200 <= answer.status < 600:
            answer.close()
            self._watch.doubted()
            raise no_status(self._model, answer.status)
        if answer.status in KEY_REFUSED or 300 <= answer.status < 400:
            answer.close()
            self._watch.doubted()
            error = key_refused if answer.status in KEY_REFUSED else redirected
            raise error(self._model, answer.status)
        if answer.status == 403:  # of the request, or of the key
            self._watch.doubted()
        return answer

    def _given_up(self, error: EngineUnreachable | EngineLost) -> EngineUnreachable | EngineLost:
        if isinstance(error, EngineUnreachable):
            self._watch.gone(str(error))
        else:
            self._watch.doubted()
        return error

    async def _words(self, answer: RemoteAnswer) -> bytes:
        try:
            return await answer.beginning(LONGEST_REFUSAL_BYTES, REFUSAL_S)
        finally:
            answer.close()


class RemoteExchange:
    """Implements `Exchange`: leaving before the end closes the connection, on which the server aborts the request."""

    def __init__(self, ask: Callable[[], Awaitable[RemoteAnswer]]) -> None:
        self._ask = ask
        self._answer: RemoteAnswer | None = None

    async def __aenter__(self) -> RemoteAnswer:
        self._answer = await self._ask()
        return self._answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._answer is not None:
            self._answer.close()


class _NoAnswer(Exception):
    """Nothing of an answer has come."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure.error))
        self.failure = failure
