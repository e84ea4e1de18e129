"""An engine without vLLM: an HTTP server in this process that does what the test says, when it says so."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from arena_server.engine.base import EngineError, LoadFacts, LoadProgress
from arena_server.engine.client import EngineClient
from tests.support.gate import Gate, until
from tests.support.replies import Received, Reply, reply_to
from tests.support.simulated_memory import OverCommit, SimulatedMemory

LOG_LINES = 200
# Answered at once, whatever the gate holds back.
NO_INFERENCE = frozenset({"/health", "/metrics"})
# Beyond any the kernel gives (PID_MAX_LIMIT is 1 << 22): nobody is hit if somebody kills them.
FIRST_PID = 1 << 23


class FakeEngine:
    """Implements `Engine`, with the very HTTP client of the real one. Faults in its use are kept in `faults`."""

    def __init__(
        self,
        name: str,
        directory: Path,
        memory: SimulatedMemory | None = None,
        *,
        devices: Sequence[int] = (0,),
        awake_bytes: int = 0,
        asleep_bytes: int = 0,
    ) -> None:
        """`directory` is made for each load and removed after it, as the real one does.

        `awake_bytes` of each of the `devices` are taken when a load or a waking begins, `asleep_bytes` are left when it
        has fallen asleep, and a stop gives back the rest at its end. A death gives nothing back.
        """
        self.name = name
        self.remote = False
        self.memory = memory
        self.devices = devices
        self.awake_bytes = awake_bytes
        self.asleep_bytes = asleep_bytes
        self.facts = LoadFacts()  # as the test says; a load leaves it as it is
        self.kv_cache_bytes: int | None = None  # what the last load was given
        self.progress: LoadProgress | None = None
        self.load_gate = Gate()
        self.load_error: Exception | None = None  # the next loads fail with it
        self.before_load: Callable[[], object] = lambda: None  # called when a load begins
        self.after_load: Callable[[], object] = lambda: None  # called in the very step of the loop in which it ends
        self.sleep_gate = Gate()
        self.sleep_error: Exception | None = None
        self.wake_gate = Gate()
        self.wake_error: Exception | None = None
        self.stop_gate = Gate()
        self.stop_error: Exception | None = None
        self.chunks = Gate()  # each chunk of every answer passes through
        self.reply: Callable[[Received], Reply] = reply_to
        self.requests: list[Received] = []
        self.loads = 0
        self.stops = 0  # of an engine that was loaded, or loading
        self.sleeps = 0  # that were begun
        self.sleep_levels: list[int] = []  # of each of them
        self.wakes = 0  # that were begun
        self.loaded = False
        self.asleep = False  # from the beginning of a sleep to the end of a waking
        self.faults: list[str] = []
        self._directory = directory
        self._busy = False
        self._server: asyncio.Server | None = None
        self._client: EngineClient | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._death: asyncio.Future[str] | None = None
        self._log: deque[str] = deque(maxlen=LOG_LINES)

    # Engine

    @property
    def served_name(self) -> str:
        """See `Engine`."""
        return self.name

    @property
    def pids(self) -> frozenset[int]:
        """See `Engine`; of no real process."""
        there = self.loaded or self.progress is not None
        return frozenset({FIRST_PID + (zlib.crc32(self.name.encode()) & 0xFFFFF)}) if there else frozenset()

    @property
    def log_tail(self) -> list[str]:
        """See `Engine`."""
        return list(self._log)

    @property
    def client(self) -> EngineClient:
        """See `Engine`."""
        if self._client is None:
            raise RuntimeError(f"engine {self.name} is not loaded")
        return self._client

    async def load(self, kv_cache_bytes: int | None = None) -> None:
        """See `Engine`."""
        with self._alone("load"):
            if self._directory.exists():
                self._fault("load without a stop before")
            self.loads += 1
            self.kv_cache_bytes = kv_cache_bytes
            self.before_load()
            self._log.extend(f"line {i} of load {self.loads}" for i in range(LOG_LINES))
            self._directory.mkdir(mode=0o700, parents=True)
            self.progress = LoadProgress("starting")
            try:
                self._take(self.awake_bytes)
                await self.load_gate.wait()
                if self.load_error is not None:
                    raise self.load_error
            finally:
                self.progress = None
            path = self._directory / "http.sock"
            self._server = await asyncio.start_unix_server(self._connected, path, limit=1 << 20)
            self._client = EngineClient(path, ahead=True)
            self._death = asyncio.get_running_loop().create_future()
            self.loaded = True
            self.asleep = False
            self.after_load()

    async def sleep(self, level: int) -> None:
        """See `Engine`."""
        with self._alone("sleep"):
            if not self.loaded or self.asleep or level not in (1, 2):
                self._fault(f"sleep at level {level} though {self._state}")
            if self.client.is_in_use:
                self._fault("sleep while a request runs")
            self.sleeps += 1
            self.sleep_levels.append(level)
            self.asleep = True
            await self.sleep_gate.wait()
            if self.sleep_error is not None:
                raise self.sleep_error
            self._take(self.asleep_bytes)

    async def wake(self) -> None:
        """See `Engine`."""
        with self._alone("wake"):
            if not self.loaded or not self.asleep:
                self._fault(f"wake though {self._state}")
            self.wakes += 1
            self._take(self.awake_bytes)
            await self.wake_gate.wait()
            if self.wake_error is not None:
                raise self.wake_error
            self.asleep = False

    async def stop(self) -> None:
        """See `Engine`."""
        with self._alone("stop"):
            self.stops += self._directory.exists()
            self.loaded = self.asleep = False
            if self._client is not None:
                self._client.close()
            self._client = None
            await self.stop_gate.wait()
            await self._cut()
            shutil.rmtree(self._directory, ignore_errors=True)
            if self.memory is not None:
                self.memory.free(self.name)
            if self.stop_error is not None:
                raise self.stop_error

    async def died(self) -> str:
        """See `Engine`."""
        if self._death is None:
            raise RuntimeError(f"engine {self.name} is not loaded")
        return await asyncio.shield(self._death)

    # What tests do to it, and wait for

    def fail_loads(self, reason: str = "out of memory") -> None:
        """Let the next loads fail."""
        self.load_error = EngineError(reason)

    async def die(self, reason: str = "killed by the test") -> None:
        """End as by SIGKILL: every connection is cut, and `died` tells."""
        await self.vanish()
        self.tell_death(reason)

    async def vanish(self) -> None:
        """End, and let nobody be told of it yet."""
        self.loaded = False
        await self._cut()

    def tell_death(self, reason: str = "killed by the test") -> None:
        """Let `died` return."""
        assert self._death is not None
        if not self._death.done():
            self._death.set_result(reason)

    async def request(self, number: int = 0) -> Received:
        """The request of that number, as soon as it is here."""
        await until(lambda: len(self.requests) > number, f"request {number} to reach {self.name}")
        return self.requests[number]

    @property
    def inference(self) -> list[Received]:
        """All requests but those for /health and /metrics."""
        return [r for r in self.requests if r.path not in NO_INFERENCE]

    @property
    def remains(self) -> bool:
        """Whether anything is left of it on disk; only a stop removes that."""
        return self._directory.exists()

    # Inside

    def _fault(self, what: str) -> None:
        self.faults.append(f"{self.name}: {what}")
        raise AssertionError(self.faults[-1])

    @property
    def _state(self) -> str:
        return "it sleeps" if self.asleep else "it is awake" if self.loaded else "it is not loaded"

    def _take(self, size: int) -> None:
        """Have so much of each device, instead of what it has."""
        for index in self.devices if self.memory is not None else ():
            assert self.memory is not None
            try:
                self.memory.take(self.name, index, size)
            except OverCommit as e:
                raise EngineError(f"out of memory: {e}", out_of_memory=True) from e

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if self._busy:
            self._fault(f"{what} while another step is under way")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def _cut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in self._connections.values():
            writer.transport.abort()
        tasks = [t for t in self._connections if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            del self._connections[task]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests, one after another."""
        begun = await self._serve_one(b"", reader, writer)
        while begun:
            begun = await self._serve_one(begun, reader, writer)

    async def _serve_one(self, begun: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """One request, of which `begun` is here; returns what is here of the next, nothing if the client hung up."""
        first, *lines = (begun + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        method, path, _ = first.split(" ")
        headers = [(n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines)]
        length = int(dict(headers).get("content-length", 0))
        request = Received(method, path, headers, await reader.readexactly(length))
        self.requests.append(request)
        if not self.loaded or self.asleep:
            self._fault(f"{method} {path} though {self._state}")
        answering = asyncio.create_task(self._answer(request, writer))
        try:
            rest = await reader.read(1)
            if rest and not request.finished:
                self._fault(f"more after {method} {path}: {rest!r}")
            return rest
        finally:
            # Either the client has hung up, or the engine was killed.
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            request.aborted = not request.finished and self.loaded

    async def _answer(self, request: Received, writer: asyncio.StreamWriter) -> None:
        reply = self.reply(request)
        if request.path not in NO_INFERENCE:
            await self.chunks.wait()
        writer.write(reply.head())
        for number, chunk in enumerate(reply.chunks):
            if number:
                await self.chunks.wait()
            if chunk:
                writer.write(reply.framed(chunk))
                await writer.drain()
            request.sent += 1
        if reply.length is None:
            writer.write(b"0\r\n\r\n")
        request.finished = True
        await writer.drain()
