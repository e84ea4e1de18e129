"""Carries out what the core orders of engines; the end of each order is an event.

A transition runs as a task of its own, at most one per model. A stop calls off whatever is under way with its model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextvars import Context

from arena_server.clock import Clock
from arena_server.engine.base import Engine, EngineError
from arena_server.gpu.device_memory import DeviceMemory
from arena_server.pool.events import (
    Crashed,
    Event,
    Load,
    Loaded,
    LoadFailed,
    ModelSpec,
    Sleep,
    SleepFailed,
    Slept,
    Stop,
    Stopped,
    Wake,
    WakeFailed,
    Woken,
)
from arena_server.pool.records import Records
from arena_server.pool.witness import Witness

logger = logging.getLogger(__name__)

# After a connection to an engine was cut, its end is known this much later at most.
LAST_WORDS_S = 0.1


class Transitions:
    """Loads, puts to sleep, wakes and stops engines, and measures what they take."""

    def __init__(
        self,
        engines: dict[str, Engine],
        memory: DeviceMemory,
        records: Records,
        clock: Clock,
        feed: Callable[[Event], None],
        survey: Callable[[str], None],
        witness: Witness,
    ) -> None:
        """`engines` may change; `survey` looks at the devices again once the named model has stopped."""
        self._engines = engines
        self._memory = memory
        self._records = records
        self._clock = clock
        self._feed = feed
        self._survey = survey
        self._witness = witness
        self._awake: set[str] = set()  # and well, as far as is known
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}

    def start(self, order: Load | Sleep | Wake | Stop, spec: ModelSpec) -> None:
        """Begin to carry out the order."""
        match order:
            case Load(name):
                logger.info("Loading %s", name)
                work = self._load(self._engines[name], spec)
            case Sleep(name, why):
                logger.info("Putting %s to sleep: %s", name, why)
                work = self._sleep(self._engines[name], spec)
            case Wake(name):
                logger.info("Waking %s", name)
                work = self._wake(self._engines[name], spec)
            case Stop(name, why):
                logger.info("Stopping %s: %s", name, why)
                work = self._stop(self._engines[name], spec, self._tasks.get(name))
        self._tasks[name] = self._spawn(work)

    async def close(self) -> None:
        """Call off everything; no more events."""
        tasks = [*self._tasks.values(), *self._watches.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        # Not in the course of the request that happened to cause it: an engine is there for others, too.
        return asyncio.get_running_loop().create_task(work, context=Context())

    async def _load(self, engine: Engine, spec: ModelSpec) -> None:
        name, devices, began = spec.name, spec.footprint, self._clock.now()
        remembered = self._records.of(name).kv_cache_bytes
        self._memory.settle(devices)
        try:
            async with self._memory.load_peak(name, devices):
                await engine.load(remembered)
        except Exception as e:  # whatever it is, it must fail one load, not wedge the device for ever
            if remembered is not None:
                self._records.note(name, kv_cache_bytes=None)  # it may be just this that no longer fits
            reason = self._reason(e, f"{name} could not be loaded")
            self._witness.failed("load", name)
            self._ended(LoadFailed(name, reason, isinstance(e, EngineError) and e.out_of_memory))
            return
        took_s = self._clock.now() - began
        logger.info("%s is awake after %.1f s", name, took_s)
        self._witness.took("load", name, took_s)
        self._memory.note_awake(name, devices, engine.pids)
        self._note_load(engine, spec, took_s)
        self._awake.add(name)
        self._watch(engine)
        self._ended(Loaded(name, sleep_host_bytes(spec, engine.facts.weights_bytes)))

    def _note_load(self, engine: Engine, spec: ModelSpec, took_s: float) -> None:
        facts, readings = engine.facts, self._memory.readings(spec.name)
        known = self._records.of(spec.name)
        self._records.note(
            spec.name,
            load_s=took_s,
            kv_cache_bytes=known.kv_cache_bytes if facts.kv_cache_bytes is None else facts.kv_cache_bytes,
            weights_bytes=known.weights_bytes if facts.weights_bytes is None else facts.weights_bytes,
            load_peak_bytes=_on(spec, readings.load_peak_bytes) or known.load_peak_bytes,
            awake_bytes=_on(spec, readings.awake_bytes) or known.awake_bytes,
        )

    async def _sleep(self, engine: Engine, spec: ModelSpec) -> None:
        name, devices, began = spec.name, spec.footprint, self._clock.now()
        await self._last_look(engine)
        self._memory.settle(devices)
        try:
            await engine.sleep(spec.sleep_level)
        except Exception as e:
            self._witness.failed("sleep", name)
            self._ended(SleepFailed(name, self._reason(e, f"{name} could not be put to sleep")))
            return
        took_s = self._clock.now() - began
        self._memory.note_asleep(name, devices, engine.pids)
        asleep = _on(spec, self._memory.readings(name).asleep_bytes)
        logger.info("%s is asleep after %.1f s", name, took_s)
        self._witness.took("sleep", name, took_s)
        self._records.note(name, sleep_s=took_s, asleep_bytes=asleep)
        self._ended(Slept(name, asleep if asleep.keys() == devices.keys() else None))

    async def _wake(self, engine: Engine, spec: ModelSpec) -> None:
        name, devices, began = spec.name, spec.footprint, self._clock.now()
        self._memory.settle(devices)
        try:
            await engine.wake()
        except Exception as e:
            self._witness.failed("wake", name)
            self._ended(WakeFailed(name, self._reason(e, f"{name} could not be woken")))
            return
        took_s = self._clock.now() - began
        self._memory.note_awake(name, devices, engine.pids)
        logger.info("%s is awake again after %.1f s", name, took_s)
        self._witness.took("wake", name, took_s)
        self._awake.add(name)
        self._records.note(name, wake_s=took_s)
        self._ended(Woken(name))

    async def _stop(self, engine: Engine, spec: ModelSpec, under_way: asyncio.Task[None] | None) -> None:
        name, began = spec.name, self._clock.now()
        await self._last_look(engine)
        await _called_off(task for task in (under_way, self._watches.pop(name, None)) if task is not None)
        self._awake.discard(name)  # a load that ended in the same turn of the loop as this began
        try:
            await engine.stop()
        except Exception:  # as above: whatever happened, the device must not stay in transition
            logger.exception("Stopping %s", name)
        back = await self._memory.returned(name, spec.footprint)
        took_s = self._clock.now() - began
        self._witness.took("stop", name, took_s)
        if back:
            self._records.note(name, stop_s=took_s)
        # Memory that is not back counts as somebody else's from now on, before anything is loaded into it.
        self._survey(name)
        self._feed(Stopped(name))

    async def _last_look(self, engine: Engine) -> None:
        """Let the witness ask an engine that is awake; one that crashed, loads or sleeps is not asked."""
        if engine.name not in self._awake:
            return
        self._awake.discard(engine.name)
        try:
            answered = await self._witness.leaves(engine)
        except Exception:  # a defect in counting must not leave the device in transition for ever
            logger.exception("The last look at %s", engine.name)
            return
        if not answered:
            # If it just crashed: its connections end before its process, and a stop would not let that be counted.
            await asyncio.wait([self._watches[engine.name]], timeout=LAST_WORDS_S)

    def _ended(self, event: Loaded | LoadFailed | Slept | SleepFailed | Woken | WakeFailed) -> None:
        """Tell the core, unless a stop was ordered in this very turn of the loop (the engine died, say)."""
        if self._tasks[event.model] is asyncio.current_task():
            if isinstance(event, Loaded | Slept | Woken):
                # The next load may begin in this very step: others may have taken memory since the last look.
                self._survey(event.model)
            self._feed(event)

    def _watch(self, engine: Engine) -> None:
        async def watch() -> None:
            reason = await engine.died()
            logger.error("%s died: %s", engine.name, reason)
            self._awake.discard(engine.name)
            self._witness.crashed(engine.name)
            self._feed(Crashed(engine.name, reason))

        self._watches[engine.name] = self._spawn(watch())

    def _reason(self, error: Exception, what: str) -> str:
        if isinstance(error, EngineError):
            logger.error("%s: %s", what, error)
            return str(error)
        logger.error("%s", what, exc_info=error)
        return f"{type(error).__name__}: {error}"


def _on(spec: ModelSpec, by_device: Mapping[int, int]) -> dict[int, int]:
    """What was measured on the model's devices: it may have been elsewhere before its configuration changed."""
    return {device: n for device, n in by_device.items() if device in spec.footprint}


async def _called_off(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def sleep_host_bytes(spec: ModelSpec, weights_bytes: int | None) -> int | None:
    """Host RAM that sleeping takes: at level 1 twice the weights of every device, as PyTorch rounds pinned memory up.

    None where the weights are not known.
    """
    if spec.sleep_level != 1:
        return 0
    return None if weights_bytes is None else 2 * weights_bytes * len(spec.footprint)
