"""The pool's shell: feeds events to the core and carries out its effects. The core's only caller.

Everything here runs on one event loop, and `_feed` never awaits, so that the core sees one event at a time and a
request for an awake model is granted without a turn of the loop. Loads and stops run as tasks, whose ends are events.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from dataclasses import dataclass

from arena_server.clock import Clock
from arena_server.engine.base import Engine, EngineError, LoadProgress
from arena_server.errors import (
    ArenaError,
    ModelsDoNotFitTogether,
    ModelUnavailable,
    QueueFull,
    ShuttingDown,
    WaitLimit,
)
from arena_server.gpu.memory_return import MemoryReturn
from arena_server.pool.core import PoolCore
from arena_server.pool.events import (
    Close,
    Crashed,
    Effect,
    Event,
    Grant,
    Load,
    Loaded,
    LoadFailed,
    Refusal,
    Refuse,
    Release,
    Request,
    Stop,
    Stopped,
    Tick,
)
from arena_server.pool.lease import Lease
from arena_server.pool.residency import Residency

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model as the pool sees it now. Times in seconds; `idle_s` is None for a model never used."""

    name: str
    residency: Residency
    running: int
    waiting: int
    idle_s: float | None
    last_load_s: float | None
    progress: LoadProgress | None
    error: str | None
    retry_in_s: float | None


class Pool:
    """Leases engines, and has them loaded and stopped as the core decides."""

    def __init__(self, engines: Mapping[str, Engine], core: PoolCore, memory: MemoryReturn, clock: Clock) -> None:
        self._engines = engines
        self._core = core
        self._memory = memory
        self._clock = clock
        self._tickets = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}  # by ticket, until answered
        self._open: set[int] = set()  # tickets that the core knows: waiting or granted
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @contextlib.asynccontextmanager
    async def lease(self, models: Iterable[str]) -> AsyncIterator[Lease]:
        """`acquire` for an `async with` block."""
        with await self.acquire(models) as lease:
            yield lease

    async def acquire(self, models: Iterable[str]) -> Lease:
        """Wait until all the models are awake, then lease them together.

        Cancelling the wait gives up the place in the queue; a load it caused goes on. Raises ModelUnavailable,
        QueueFull, WaitLimit, ModelsDoNotFitTogether or ShuttingDown.
        """
        if self._closed:
            raise ShuttingDown("The server is shutting down.")
        names = frozenset(models)
        ticket = next(self._tickets)
        answer = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self._open.add(ticket)
        self._feed(Request(ticket, names))
        try:
            await answer
        except asyncio.CancelledError:
            # Waiting, or granted (or refused) in the same turn of the loop as the cancellation.
            self._give_back(ticket)
            raise
        finally:
            self._waiting.pop(ticket, None)
        return Lease({name: self._engines[name] for name in names}, lambda: self._give_back(ticket))

    def views(self) -> list[ModelView]:
        """Every model as it is now, in the order of the configuration."""
        now = self._clock.now()
        return [
            ModelView(
                name=name,
                residency=model.residency,
                running=len(model.leases),
                waiting=sum(name in w.models for w in self._core.queue),
                idle_s=None if math.isinf(model.last_used) else 0.0 if model.leases else now - model.last_used,
                last_load_s=model.load_s,
                progress=self._engines[name].progress,
                error=model.error,
                retry_in_s=max(0.0, model.retry_at - now) if model.residency is Residency.FAILED else None,
            )
            for name, model in self._core.models.items()
        ]

    def reserved_bytes(self, device: int) -> int:
        """Bytes of the device that the pool has given to engines."""
        return self._core.ledger.reserved(device)

    def refuse_new(self) -> None:
        """From now on refuse all who wait or come; what is granted goes on."""
        self._feed(Close())

    async def close(self) -> None:
        """Refuse whoever waits, end every load and engine. Leases still out lose their engines."""
        self.refuse_new()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._tasks, *self._watches.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        engines = list(self._engines.values())
        for engine, result in zip(
            engines, await asyncio.gather(*(e.stop() for e in engines), return_exceptions=True), strict=True
        ):
            if isinstance(result, BaseException):
                logger.error("Stopping %s", engine.name, exc_info=result)

    def _give_back(self, ticket: int) -> None:
        if ticket in self._open:
            self._open.remove(ticket)
            self._feed(Release(ticket))

    def _feed(self, event: Event) -> None:
        if self._closed:
            return
        now = self._clock.now()
        for effect in self._core.handle(event, now):
            self._run(effect)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not math.isinf(deadline := self._core.next_deadline(now)):
            self._timer = asyncio.get_running_loop().call_later(deadline - now, self._feed, Tick())

    def _run(self, effect: Effect) -> None:
        match effect:
            case Load(name):
                logger.info("Loading %s", name)
                self._spawn(self._load(name))
            case Stop(name, why):
                logger.info("Stopping %s: %s", name, why)
                self._spawn(self._stop(name))
            case Grant(ticket):
                self._answer(ticket, None)
            case Refuse(ticket):
                self._open.remove(ticket)
                self._answer(ticket, _error(effect))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _answer(self, ticket: int, error: ArenaError | None) -> None:
        answer = self._waiting[ticket]
        if answer.done():
            return  # cancelled; its Release is on the way
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    async def _load(self, name: str) -> None:
        began = self._clock.now()
        footprint = self._core.models[name].spec.footprint
        self._memory.settle(footprint)
        try:
            await self._engines[name].load()
        except EngineError as e:
            logger.error("%s could not be loaded: %s", name, e)
            self._feed(LoadFailed(name, str(e)))
        except Exception as e:  # a defect in an engine must fail one load, not wedge the device for ever
            logger.exception("%s could not be loaded", name)
            self._feed(LoadFailed(name, f"{type(e).__name__}: {e}"))
        else:
            self._memory.loaded(name, footprint)
            logger.info("%s is awake after %.1f s", name, self._clock.now() - began)
            self._watches[name] = asyncio.get_running_loop().create_task(self._watch(name))
            self._feed(Loaded(name))

    async def _watch(self, name: str) -> None:
        reason = await self._engines[name].died()
        logger.error("%s died: %s", name, reason)
        self._feed(Crashed(name, reason))

    async def _stop(self, name: str) -> None:
        if (watch := self._watches.pop(name, None)) is not None:
            watch.cancel()
        try:
            await self._engines[name].stop()
        except Exception:  # as above: whatever happened, the device must not stay in transition
            logger.exception("Stopping %s", name)
        await self._memory.returned(name, self._core.models[name].spec.footprint)
        self._feed(Stopped(name))


def _error(refuse: Refuse) -> ArenaError:
    kinds: Mapping[Refusal, type[ArenaError]] = {
        Refusal.QUEUE_FULL: QueueFull,
        Refusal.WAIT_LIMIT: WaitLimit,
        Refusal.NEVER_FITS: ModelsDoNotFitTogether,
        Refusal.UNAVAILABLE: ModelUnavailable,
        Refusal.CLOSING: ShuttingDown,
    }
    return kinds[refuse.refusal](refuse.detail, retry_after_s=refuse.retry_after_s)
