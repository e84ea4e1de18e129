"""The pool's shell: feeds events to the core and has its effects carried out. The core's only caller.

Everything here runs on one event loop, and `_feed` never awaits, so that the core sees one event at a time and a
request for an awake model is granted without a turn of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import asdict, dataclass
from functools import partial

from arena_server.clock import Clock
from arena_server.engine.base import Engine
from arena_server.errors import (
    ArenaError,
    Conflict,
    ModelNotFound,
    ModelsDoNotFitTogether,
    ModelUnavailable,
    QueueFull,
    ShuttingDown,
    WaitLimit,
)
from arena_server.gpu.device_memory import DeviceMemory
from arena_server.pool.core import PoolCore
from arena_server.pool.device_processes import DeviceProcesses, device_processes
from arena_server.pool.events import (
    Away,
    Close,
    Drains,
    Effect,
    Event,
    Grant,
    Limits,
    Load,
    ModelSpec,
    Moved,
    Pin,
    PutAway,
    Reconfigure,
    Refusal,
    Refuse,
    Removed,
    Replaced,
    Reset,
    Sleep,
    Stop,
    Tick,
    Wake,
)
from arena_server.pool.journal import Journal
from arena_server.pool.lease import Lease
from arena_server.pool.ledger import Budget
from arena_server.pool.outlook import Whereabouts, model_eta_s, outlooks
from arena_server.pool.records import Records
from arena_server.pool.residency import Residency
from arena_server.pool.survey import Survey
from arena_server.pool.tickets import Ask, Notices, Tickets
from arena_server.pool.transitions import Transitions
from arena_server.pool.views import PoolSummary, PoolView, pool_summary, pool_view
from arena_server.pool.why import cause_of
from arena_server.pool.witness import NoWitness, Witness

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EnginePart:
    """A model's engine, and the key under which its measurements are kept."""

    engine: Engine
    key: str


class Pool:
    """Leases engines, and has them loaded, put to sleep, woken and stopped as the core decides."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        core: PoolCore,
        memory: DeviceMemory,
        records: Records,
        clock: Clock,
        journal: Journal | None = None,
        reserve_bytes: Mapping[int, int] | None = None,
        witness: Witness | None = None,
    ) -> None:
        """`reserve_bytes` of each device are left to others than this daemon's engines; `witness` counts."""
        self.journal = journal or Journal()
        self._engines = dict(engines)
        self._witness = witness or NoWitness()
        self._core = core
        self._records = records
        self._clock = clock
        self._began = clock.now()
        self._memory = memory
        self._survey = Survey(memory, core, self._feed, reserve_bytes or {})
        self._transitions = Transitions(
            self._engines, memory, records, clock, self._feed, self._survey.look, self._witness
        )
        self._successors: dict[str, EnginePart] = {}
        self._tickets = Tickets(core, clock, self._feed)
        self._touches: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # Leases

    @contextlib.asynccontextmanager
    async def lease(
        self, models: Iterable[str], notices: Notices | None = None, asker: str = ""
    ) -> AsyncIterator[Lease]:
        """`acquire` for an `async with` block."""
        with await self.acquire(models, notices, asker) as lease:
            yield lease

    async def acquire(self, models: Iterable[str], notices: Notices | None = None, asker: str = "") -> Lease:
        """Wait until all the models are awake, then lease them together.

        Askers wait side by side: however much one of them asks for, the others' turns come in between.

        Cancelling the wait gives up the place in the queue; a load it caused goes on. Raises ModelUnavailable,
        QueueFull, WaitLimit, ModelsDoNotFitTogether, ModelNotFound or ShuttingDown.
        """
        wanted = self._wanted(models)
        if (ticket := self._tickets.at_once(wanted)) is not None:
            return self._lease(ticket, wanted)
        return await self._granted(self._tickets.ask(wanted, asker), notices)

    def _wanted(self, models: Iterable[str]) -> frozenset[str]:
        if self._closed:
            raise ShuttingDown("The server is shutting down.")
        return frozenset([self._known(name) for name in models])

    async def _granted(self, ask: Ask, notices: Notices | None = None) -> Lease:
        await self._tickets.granted(ask, notices)
        return self._lease(ask.ticket, ask.models)

    def _lease(self, ticket: int, models: frozenset[str]) -> Lease:
        return Lease({name: self._engines[name] for name in models}, partial(self._tickets.give_back, ticket))

    # Operators

    def load(self, name: str) -> None:
        """Have the model awake as soon as its turn comes. Raises what `acquire` does, where that is known at once."""
        model = self._core.models[self._known(name)]
        if model.residency is Residency.FAILED:
            wait_s = model.retry_at - self._clock.now()
            raise ModelUnavailable(f"{name} failed: {model.error} (reset it, or wait {wait_s:.0f} s)")
        ask = self._tickets.ask(self._wanted([name]))
        if (error := self._tickets.refused_at_once(ask)) is not None:
            raise error

        async def touch() -> None:
            try:
                (await self._granted(ask)).release()
            except ArenaError as e:
                logger.error("Loading %s: %s", name, e)

        task = asyncio.get_running_loop().create_task(touch())
        self._touches.add(task)
        task.add_done_callback(self._touches.discard)

    def sleep(self, name: str) -> None:
        """Have the model asleep once its running requests are done. Raises ModelNotFound, Conflict."""
        model = self._core.models[self._known(name)]
        if model.residency not in (Residency.AWAKE, Residency.FALLING_ASLEEP, Residency.ASLEEP):
            raise Conflict(f"{name} is {model.residency}: only a model that is awake can be put to sleep.")
        if model.when_asleep is None:
            why = "its sleep_level is 0" if model.spec.sleep_level == 0 else "it failed to wake (reset it first)"
            raise Conflict(f"{name} cannot sleep: {why}. It can be stopped.")
        self._feed(PutAway(name, Away.ASLEEP))

    def stop(self, name: str) -> None:
        """Have the model stopped once its running requests are done. Raises ModelNotFound."""
        self._feed(PutAway(self._known(name), Away.STOPPED))

    def pin(self, name: str, pinned: bool) -> None:
        """Keep the model from being evicted, or no longer. Raises ModelNotFound, ModelsDoNotFitTogether."""
        if pinned and (misfit := self.misfit([name])):
            raise ModelsDoNotFitTogether(misfit)
        self._feed(Pin(self._known(name), pinned))

    def reset(self, name: str) -> None:
        """Forget the model's failures: it may be asked for again. Raises ModelNotFound."""
        self._feed(Reset(self._known(name)))

    def reconfigure(
        self,
        specs: Sequence[ModelSpec],
        engines: Mapping[str, EnginePart],
        budget: Budget,
        limits: Limits,
        reserve_bytes: Mapping[int, int],
    ) -> None:
        """Be another pool: `engines` are those of models that are new or changed; others go on untouched."""
        self._survey.reserve_bytes = reserve_bytes
        changed = frozenset(name for name in engines if name in self._core.models)
        for name, part in engines.items():
            if name in changed:
                self._successors[name] = part
            else:
                self._install(name, part)
        self._feed(Reconfigure(specs, changed, budget, limits))

    # Looking

    def view(self) -> PoolView:
        """Everything the pool knows, now."""
        return pool_view(self.summary(), outlooks(self._core, self._clock.now()))

    def summary(self) -> PoolSummary:
        """The same without what each who waits can expect: quick, however many wait."""
        return pool_summary(
            self._core,
            self._engines,
            self._memory,
            self._records,
            self._survey.outside,
            self._began,
            self._clock.now(),
        )

    @property
    def names(self) -> list[str]:
        """All models, by their configured names."""
        return list(self._core.models)

    @property
    def closing(self) -> bool:
        """Whether nobody new is served any more."""
        return self._core.closing

    @property
    def awake(self) -> dict[str, Engine]:
        """The engines that answer now, by model."""
        models = self._core.models.values()
        return {m.name: self._engines[m.name] for m in models if m.residency is Residency.AWAKE}

    def processes(self, device: int, *, gpu: bool) -> DeviceProcesses:
        """Who has memory of a device now, process by process."""
        return device_processes(self._core, self._engines, self._memory, device, gpu=gpu)

    def where(self, name: str) -> Whereabouts:
        """Where one model is. Raises ModelNotFound."""
        model = self._core.models[self._known(name)]
        return Whereabouts(model.residency, model_eta_s(model, self._clock.now()))

    def misfit(self, names: Collection[str]) -> str | None:
        """Why these can never be awake together, in words; None if they can. Raises ModelNotFound."""
        return self._core.misfit([self._known(name) for name in names])

    def look_at_devices(self) -> None:
        """Look at what others do on the devices."""
        self._survey.look()

    async def watch_devices(self) -> None:
        """Look at them now and again, for ever."""
        await self._survey.run()

    # Ending

    def refuse_new(self) -> None:
        """From now on refuse all who wait or come, and send watchers away; what is granted goes on."""
        self._feed(Close())
        self.journal.close()

    async def close(self) -> None:
        """Refuse whoever waits, end every transition and engine. Leases still out lose their engines."""
        self.refuse_new()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self._transitions.close()
        engines = [*self._engines.values(), *(part.engine for part in self._successors.values())]
        for engine, result in zip(
            engines, await asyncio.gather(*(e.stop() for e in engines), return_exceptions=True), strict=True
        ):
            if isinstance(result, BaseException):
                logger.error("Stopping %s", engine.name, exc_info=result)
        self._records.close()

    # Events and effects

    def _known(self, name: str) -> str:
        if name not in self._core.models:
            raise ModelNotFound(name, self._core.models)
        return name

    def _feed(self, event: Event) -> None:
        if self._closed:
            return
        now = self._clock.now()
        waited = [w.ticket for w in self._core.queue] if self.journal.watched else []
        for effect in self._core.handle(event, now):
            self._run(effect)
        if self.journal.watched and [w.ticket for w in self._core.queue] != waited:
            self.journal.queued([asdict(o) for o in outlooks(self._core, now)])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not math.isinf(deadline := self._core.next_deadline(now)):
            self._timer = asyncio.get_running_loop().call_later(deadline - now, self._feed, Tick(), context=Context())

    def _run(self, effect: Effect) -> None:
        match effect:
            case Grant(ticket):
                self._tickets.answer(ticket, None)
            case Refuse(ticket):
                self.journal.decided("refuse", None, f"{effect.refusal}: {effect.detail}")
                self._witness.refused(effect.refusal)
                self._tickets.answer(ticket, _error(effect))
            case Load(name, why, cost_s) | Sleep(name, why, cost_s) | Wake(name, why, cost_s) | Stop(name, why, cost_s):
                kind = type(effect).__name__.lower()
                self.journal.decided(kind, name, why, cost_s)
                self._witness.ordered(kind, name, cause_of(why))
                self._transitions.start(effect, self._core.models[name].spec)
            case Drains(name, why):
                self.journal.decided("spare" if why is None else "drain", name, why or "no longer needed")
            case Moved(name, was, to, why):
                self.journal.moved(name, was, to, why)
            case Replaced(name):
                self._install(name, self._successors.pop(name))
                logger.info("%s has a new configuration", name)
            case Removed(name):
                del self._engines[name]
                self._successors.pop(name, None)
                self._records.forget(name)
                logger.info("%s is no longer configured", name)

    def _install(self, name: str, part: EnginePart) -> None:
        self._engines[name] = part.engine
        self._records.rename(name, part.key)


def _error(refuse: Refuse) -> ArenaError:
    kinds: Mapping[Refusal, type[ArenaError]] = {
        Refusal.QUEUE_FULL: QueueFull,
        Refusal.WAIT_LIMIT: WaitLimit,
        Refusal.NEVER_FITS: ModelsDoNotFitTogether,
        Refusal.UNAVAILABLE: ModelUnavailable,
        Refusal.CLOSING: ShuttingDown,
    }
    return kinds[refuse.refusal](refuse.detail, retry_after_s=refuse.retry_after_s)
