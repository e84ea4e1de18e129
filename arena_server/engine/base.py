"""What the pool and the relay ask of an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from arena_server.engine.client import Header, Taker


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load is: a phase in words, and the part of that phase that is done (0 to 1) where it is known."""

    phase: str
    fraction: float | None = None

    def __str__(self) -> str:
        return self.phase if self.fraction is None else f"{self.phase} {self.fraction:.0%}"


@dataclass(frozen=True, slots=True)
class LoadFacts:
    """What an engine said of itself while it loaded, in bytes per device; None where it said nothing.

    `kv_cache_bytes` is what it found free for its cache (never more than that; None where it was told how much to
    take), `weights_bytes` what its weights take (never less).
    """

    kv_cache_bytes: int | None = None
    weights_bytes: int | None = None


class EngineError(Exception):
    """An engine could not be loaded, put to sleep or woken.

    The text is the reason in one line, in the engine's own words if it has any; `out_of_memory` tells that it was
    a lack of memory on its devices.
    """

    def __init__(self, reason: str, *, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


class Response(Protocol):
    """An engine's answer while it comes; its status and headers are here."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Sequence[Header]:
        """Names as the engine wrote them."""
        ...

    def chunks(self, taker: Taker | None = None) -> AsyncIterator[bytes]:
        """The body, as it comes: no more is read than is taken. Raises EngineLost.

        A piece may be given to `taker` the moment it comes; if it takes it, it does not come from here.
        """
        ...

    async def read(self) -> bytes:
        """All of the body. Raises EngineLost."""
        ...


class Exchange(Protocol):
    """A request and its answer: entering sends and waits for the headers, leaving ends it, whole or not.

    Entering raises EngineUnreachable where the engine has not taken the request, and EngineLost.
    """

    async def __aenter__(self) -> Response: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Client(Protocol):
    """Asks one engine over HTTP; as many requests at a time as there are callers."""

    def post(self, path: str, headers: Iterable[Header], body: bytes) -> Exchange:
        """Ask. `path` is the route with its query, if any."""
        ...

    def get(self, path: str) -> Exchange:
        """As `post`."""
        ...

    def apart(self) -> Client:
        """Another client of the same engine, for who asks it about itself: not taken for its work."""
        ...


class Engine(Protocol):
    """One model's engine.

    At most one of `load`, `sleep`, `wake` and `stop` runs at a time; the pool sees to that. `stop` may come after any
    of the others was cancelled, wherever that was.
    An implementation passes tests/engine_contract.py.
    """

    @property
    def name(self) -> str:
        """The model's configured name."""
        ...

    @property
    def served_name(self) -> str:
        """The name that requests to it have to ask for."""
        ...

    @property
    def remote(self) -> bool:
        """Whether another server runs it: no process, no memory and no metrics of it are here."""
        ...

    @property
    def progress(self) -> LoadProgress | None:
        """Where the load is; None when none is under way."""
        ...

    @property
    def facts(self) -> LoadFacts:
        """What it said of itself during its last load."""
        ...

    @property
    def pids(self) -> frozenset[int]:
        """Its processes now; empty when there are none."""
        ...

    @property
    def log_tail(self) -> list[str]:
        """The last lines (at most 200) the engine printed, oldest first."""
        ...

    @property
    def client(self) -> Client:
        """An HTTP client for the loaded engine; paths are vLLM's routes. Between `load` and `stop` only.

        Nothing is asked while the engine sleeps.
        """
        ...

    async def load(self, kv_cache_bytes: int | None = None) -> None:
        """Start the engine; return when it answers requests.

        `kv_cache_bytes` (per device), known from an earlier good load, spares it finding out how much it can take.
        Raises EngineError. After that, or after a cancellation, only `stop` may be called.
        """
        ...

    async def sleep(self, level: int) -> None:
        """Give the devices' memory back, but stay: level 1 keeps the weights in host RAM, level 2 reads them again.

        Only while no request runs. Raises EngineError; after that only `stop` may be called.
        """
        ...

    async def wake(self) -> None:
        """Undo the last `sleep`; return when it answers requests, and as it did before.

        Raises EngineError; after that only `stop` may be called.
        """
        ...

    async def stop(self) -> None:
        """End the engine, whatever its state; return when none of its processes is left. May be called twice."""
        ...

    async def died(self) -> str:
        """Wait until a loaded engine, awake or asleep, ends without having been told to; return the reason in one line.

        One that lets running requests wait for too long counts as ended.
        """
        ...
