"""Carries out what the core orders of engines; the end of each order is an event.

A transition runs as a task of its own, at most one per model. A stop calls off whatever is under way with its model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping

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

logger = logging.getLogger(__name__)


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
    ) -> None:
        """`engines` may change; `survey` looks at the devices again once the named model has stopped."""
        self._engines = engines
        self._memory = memory
        self._records = records
        self._clock = clock
        self._feed = feed
        self._survey = survey
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
        return asyncio.get_running_loop().create_task(work)

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
            self._ended(LoadFailed(name, reason, isinstance(e, EngineError) and e.out_of_memory))
            return
        took_s = self._clock.now() - began
        logger.info("%s is awake after %.1f s", name, took_s)
        self._memory.note_awake(name, devices, engine.pids)
        self._note_load(engine, spec, took_s)
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
        self._memory.settle(devices)
        try:
            await engine.sleep(spec.sleep_level)
        except Exception as e:
            self._ended(SleepFailed(name, self._reason(e, f"{name} could not be put to sleep")))
            return
        took_s = self._clock.now() - began
        self._memory.note_asleep(name, devices, engine.pids)
        asleep = _on(spec, self._memory.readings(name).asleep_bytes)
        logger.info("%s is asleep after %.1f s", name, took_s)
        self._records.note(name, sleep_s=took_s, asleep_bytes=asleep)
        self._ended(Slept(name, asleep if asleep.keys() == devices.keys() else None))

    async def _wake(self, engine: Engine, spec: ModelSpec) -> None:
        name, devices, began = spec.name, spec.footprint, self._clock.now()
        self._memory.settle(devices)
        try:
            await engine.wake()
        except Exception as e:
            self._ended(WakeFailed(name, self._reason(e, f"{name} could not be woken")))
            return
        took_s = self._clock.now() - began
        self._memory.note_awake(name, devices, engine.pids)
        logger.info("%s is awake again after %.1f s", name, took_s)
        self._records.note(name, wake_s=took_s)
        self._ended(Woken(name))

    async def _stop(self, engine: Engine, spec: ModelSpec, under_way: asyncio.Task[None] | None) -> None:
        began = self._clock.now()
        await _called_off(task for task in (under_way, self._watches.pop(spec.name, None)) if task is not None)
        try:
            await engine.stop()
        except Exception:  # as above: whatever happened, the device must not stay in transition
            logger.exception("Stopping %s", spec.name)
        if await self._memory.returned(spec.name, spec.footprint):
            self._records.note(spec.name, stop_s=self._clock.now() - began)
        # Memory that is not back counts as somebody else's from now on, before anything is loaded into it.
        self._survey(spec.name)
        self._feed(Stopped(spec.name))

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
