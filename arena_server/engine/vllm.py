"""A vLLM engine: vLLM's own OpenAI server in processes of its own, spoken to over a private Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from arena_server.clock import SystemClock
from arena_server.engine import process_group
from arena_server.engine.base import EngineError, LoadFacts, LoadProgress
from arena_server.engine.client import EngineClient, EngineLost, EngineUnreachable
from arena_server.engine.command import EngineCommand, with_kv_cache
from arena_server.engine.death import DeathWatch, ended
from arena_server.engine.facts import facts_with, tells_of_lack
from arena_server.engine.launcher import EngineProcess, Launcher
from arena_server.engine.load_stall import LoadStall
from arena_server.engine.output import EngineOutput
from arena_server.engine.progress import failure_reason, log_level, parse_progress
from arena_server.engine.sleeper import Sleeper
from arena_server.engine.stall import ProgressStall

POLL_S = 0.02
HEALTH_TIMEOUT_S = 5.0
STILL_THERE_S = 10.0
# A broken connection shows some milliseconds before the death that broke it.
HEARS_OF_DEATH_S = 1.0
SHOWN_LINES = 3


class VllmEngine:
    """Starts and ends one model's vLLM; implements `Engine`."""

    def __init__(
        self,
        name: str,
        launcher: Launcher,
        directory: Path,
        command: Callable[[Path], EngineCommand],
        load_timeout_s: float,
        *,
        load_stall_s: float = 300.0,
        sleep_timeout_s: float = 300.0,
        progress_stall_s: float = 180.0,
    ) -> None:
        """`directory` is made for each load and removed after it; `command` gets it and says how to start.

        The limits are those of the configuration's `pool`.
        """
        self._name = name
        self._launcher = launcher
        self._directory = directory
        self._command = command
        self._load_timeout_s = load_timeout_s
        self._load_stall_s = load_stall_s
        self._sleep_timeout_s = sleep_timeout_s
        self._progress_stall_s = progress_stall_s
        self._clock = SystemClock()
        self._logger = logging.getLogger("arena_server.engine")
        self._process: EngineProcess | None = None
        self._output: EngineOutput | None = None
        self._client: EngineClient | None = None
        self._own_client: EngineClient | None = None  # for what the daemon itself asks
        self._progress: LoadProgress | None = None
        self._load_stall: LoadStall | None = None
        self._facts = LoadFacts()
        self._lacks_memory = False
        self._death: DeathWatch | None = None
        self._stall: asyncio.Task[None] | None = None
        self._sleeper: Sleeper | None = None

    @property
    def name(self) -> str:
        """See `Engine`."""
        return self._name

    @property
    def served_name(self) -> str:
        """See `Engine`."""
        return self._name

    @property
    def remote(self) -> bool:
        """See `Engine`."""
        return False

    @property
    def progress(self) -> LoadProgress | None:
        """See `Engine`."""
        return self._progress

    @property
    def facts(self) -> LoadFacts:
        """See `Engine`."""
        return self._facts

    @property
    def pids(self) -> frozenset[int]:
        """See `Engine`."""
        if self._process is None or self._process.exited.done():
            return frozenset()
        return frozenset(member.pid for member in process_group.members(self._process.pid))

    @property
    def log_tail(self) -> list[str]:
        """See `Engine`."""
        return list(self._output.tail) if self._output is not None else []

    @property
    def client(self) -> EngineClient:
        """See `Engine`."""
        if self._client is None:
            raise RuntimeError(f"engine {self._name} is not loaded")
        return self._client

    @property
    def pid(self) -> int | None:
        """The leading process of the loaded engine."""
        return self._process.pid if self._process is not None else None

    async def load(self, kv_cache_bytes: int | None = None) -> None:
        """See `Engine`."""
        self._facts, self._lacks_memory = LoadFacts(), False
        command = with_kv_cache(self._command(self._directory), kv_cache_bytes)
        if command.model.startswith("/") and not os.path.exists(command.model):  # noqa: ASYNC240 (as quick as mkdir)
            # vLLM would take it for a name on the hub, and complain of that.
            raise EngineError(f"the model folder {command.model} does not exist")
        importing = self._progress = LoadProgress("importing vLLM")
        self._directory.mkdir(mode=0o700, parents=True)
        try:
            async with asyncio.timeout(self._load_timeout_s):
                self._process = await self._launch(command)
        except TimeoutError:
            raise EngineError(
                f"no process after {self._load_timeout_s:g} s (pool.load_timeout_s): the zygote does not answer"
            ) from None
        if self._progress is importing:  # it may have said more by now
            self._progress = LoadProgress("starting")
        socket = self._directory / "http.sock"
        self._client, self._own_client = EngineClient(socket, ahead=True), EngineClient(socket)
        await self._until_healthy(self._process, self._own_client)
        self._progress = self._load_stall = None
        if self._output is not None:
            self._output.mark()
        self._death = DeathWatch(self._process, self._reason)
        self._sleeper = Sleeper(self._own_client, self._name, self._sleep_timeout_s)
        self._watch_progress()

    async def sleep(self, level: int) -> None:
        """See `Engine`."""
        self._unwatch_progress()
        async with self._changing_sleep() as sleeper:
            await sleeper.sleep(level)

    async def wake(self) -> None:
        """See `Engine`."""
        async with self._changing_sleep() as sleeper:
            await sleeper.wake()
        self._watch_progress()

    async def stop(self) -> None:
        """See `Engine`.

        SIGKILL: nothing is running (or nothing is to be saved), it is sure and takes 0.1 s. vLLM's own shutdown on
        SIGTERM takes longer, leaves segments in /dev/shm, and can hang for 600 s while it starts.
        """
        if self._death is not None:
            self._death.close()
        self._unwatch_progress()
        self._progress = self._load_stall = None
        client, self._client = self._client, None
        self._own_client = self._sleeper = None
        if self._process is not None:
            self._launcher.kill(self._process)
            while not self._process.exited.done():
                await asyncio.wait([self._process.exited], timeout=STILL_THERE_S)
                if not self._process.exited.done():
                    self._logger.warning("[%s] killed, but still there; waiting", self._name)
            self._process = None
        if client is not None:
            client.close()
        if self._output is not None:
            await self._output.drained(1)
        shutil.rmtree(self._directory, ignore_errors=True)

    async def died(self) -> str:
        """See `Engine`."""
        if self._death is None:
            raise RuntimeError(f"engine {self._name} is not loaded")
        return await asyncio.shield(self._death.reason)

    async def _launch(self, command: EngineCommand) -> EngineProcess:
        self._output = EngineOutput(self._log, self._note_progress)
        log_fd = await self._output.open()
        try:
            return await self._launcher.launch(self._name, command.argv, command.env, log_fd, fresh=command.fresh)
        finally:
            os.close(log_fd)

    async def _until_healthy(self, process: EngineProcess, client: EngineClient) -> None:
        stall = LoadStall(self._load_stall_s, partial(process_group.moved_bytes, process.pid), self._clock)
        self._load_stall = stall
        try:
            async with asyncio.timeout(self._load_timeout_s):
                while not process.exited.done():
                    if await _is_healthy(client):
                        return
                    if stall.over():
                        raise self._stalled()
                    await asyncio.wait([process.exited], timeout=POLL_S)
        except TimeoutError:
            what = f"not ready after {self._load_timeout_s:g} s (pool.load_timeout_s); it was {self._progress}"
            raise self._error(what) from None
        if self._output is not None:
            await self._output.drained(1)
        raise self._error(self._reason(f"the engine process {ended(process.exited.result())}"))

    def _stalled(self) -> EngineError:
        lines = " | ".join(self.log_tail[-SHOWN_LINES:]) or "none"
        what = f"no sign of progress for {self._load_stall_s:g} s (pool.load_stall_s)"
        return self._error(f"{what}; it was {self._progress}; last lines: {lines}")

    @contextlib.asynccontextmanager
    async def _changing_sleep(self) -> AsyncIterator[Sleeper]:
        """Turn what can go wrong into an EngineError with the best reason there is."""
        if self._sleeper is None or self._death is None:
            raise RuntimeError(f"engine {self._name} is not loaded")
        self._lacks_memory = False
        try:
            yield self._sleeper
        except EngineError as e:
            reason = str(e)
            if isinstance(e.__cause__, EngineUnreachable | EngineLost):
                await asyncio.wait([self._death.reason], timeout=HEARS_OF_DEATH_S)
                if self._death.reason.done():
                    reason = f"{reason}: {self._death.reason.result()}"
            raise self._error(reason, out_of_memory=e.out_of_memory) from e

    def _watch_progress(self) -> None:
        """Take an engine that lets running requests wait for too long for dead."""
        assert self._death is not None
        assert self._own_client is not None
        stall = ProgressStall(self.client, self._own_client, self._progress_stall_s, self._clock)

        async def watch(death: DeathWatch) -> None:
            death.report(await stall.happened())

        self._stall = asyncio.create_task(watch(self._death))

    def _unwatch_progress(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _error(self, reason: str, *, out_of_memory: bool = False) -> EngineError:
        return EngineError(reason, out_of_memory=out_of_memory or self._lacks_memory)

    def _reason(self, what: str) -> str:
        lines = self._output.tail_since_mark if self._output is not None else []
        return failure_reason(lines) or what

    def _log(self, line: str) -> None:
        self._logger.log(log_level(line), "[%s] %s", self._name, line)
        self._lacks_memory = self._lacks_memory or tells_of_lack(line)
        if self._progress is not None:
            self._facts = facts_with(self._facts, line)

    def _note_progress(self, line: str) -> None:
        if self._load_stall is not None:
            self._load_stall.printed(line)
        if self._progress is not None and (progress := parse_progress(line)):
            self._progress = progress


async def _is_healthy(client: EngineClient) -> bool:
    with contextlib.suppress(EngineUnreachable, EngineLost, TimeoutError):
        async with asyncio.timeout(HEALTH_TIMEOUT_S), client.get("/health") as response:
            return response.status == 200
    return False
