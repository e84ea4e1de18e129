"""A vLLM engine: vLLM's own OpenAI server in processes of its own, spoken to over a private Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from arena_server.engine import process_group
from arena_server.engine.base import EngineError, LoadProgress
from arena_server.engine.client import EngineClient, EngineLost, EngineUnreachable
from arena_server.engine.command import EngineCommand
from arena_server.engine.launcher import EngineProcess, Launcher
from arena_server.engine.output import EngineOutput
from arena_server.engine.progress import failure_reason, log_level, parse_progress

POLL_S = 0.02
HEALTH_TIMEOUT_S = 5.0
STILL_THERE_S = 10.0


class VllmEngine:
    """Starts and ends one model's vLLM; implements `Engine`."""

    def __init__(
        self,
        name: str,
        launcher: Launcher,
        directory: Path,
        command: Callable[[Path], EngineCommand],
        load_timeout_s: float,
    ) -> None:
        """`directory` is made for each load and removed after it; `command` gets it and says how to start."""
        self._name = name
        self._launcher = launcher
        self._directory = directory
        self._command = command
        self._load_timeout_s = load_timeout_s
        self._logger = logging.getLogger("arena_server.engine")
        self._process: EngineProcess | None = None
        self._output: EngineOutput | None = None
        self._client: EngineClient | None = None
        self._progress: LoadProgress | None = None
        self._death: asyncio.Future[str] | None = None
        self._watched: list[int] = []

    @property
    def name(self) -> str:
        """See `Engine`."""
        return self._name

    @property
    def progress(self) -> LoadProgress | None:
        """See `Engine`."""
        return self._progress

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

    async def load(self) -> None:
        """See `Engine`."""
        command = self._command(self._directory)
        if command.model.startswith("/") and not os.path.exists(command.model):  # noqa: ASYNC240 (as quick as mkdir)
            # vLLM would take it for a name on the hub, and complain of that.
            raise EngineError(f"the model folder {command.model} does not exist")
        self._progress = LoadProgress("importing vLLM")
        self._directory.mkdir(mode=0o700, parents=True)
        self._output = EngineOutput(self._log, self._note_progress)
        log_fd = await self._output.open()
        try:
            self._process = await self._launcher.launch(
                self._name, command.argv, command.env, log_fd, fresh=command.fresh
            )
        finally:
            os.close(log_fd)
        self._progress = LoadProgress("starting")
        self._client = EngineClient(self._directory / "http.sock")
        try:
            async with asyncio.timeout(self._load_timeout_s):
                await self._until_healthy(self._process, self._client)
        except TimeoutError:
            phase = self._progress
            raise EngineError(
                f"not ready after {self._load_timeout_s:g} s (pool.load_timeout_s); it was {phase}"
            ) from None
        self._progress = None
        self._output.mark()
        self._watch(self._process)

    async def stop(self) -> None:
        """See `Engine`.

        SIGKILL: nothing is running (or nothing is to be saved), it is sure and takes 0.1 s. vLLM's own shutdown on
        SIGTERM takes longer, leaves segments in /dev/shm, and can hang for 600 s while it starts.
        """
        self._unwatch()
        self._progress = None
        self._client = None
        if self._process is not None:
            self._launcher.kill(self._process)
            while not self._process.exited.done():
                await asyncio.wait([self._process.exited], timeout=STILL_THERE_S)
                if not self._process.exited.done():
                    self._logger.warning("[%s] killed, but still there; waiting", self._name)
            self._process = None
        if self._output is not None:
            await self._output.drained(1)
        shutil.rmtree(self._directory, ignore_errors=True)

    async def died(self) -> str:
        """See `Engine`."""
        if self._death is None:
            raise RuntimeError(f"engine {self._name} is not loaded")
        return await asyncio.shield(self._death)

    async def _until_healthy(self, process: EngineProcess, client: EngineClient) -> None:
        while not process.exited.done():
            with contextlib.suppress(EngineUnreachable, EngineLost, TimeoutError):
                async with asyncio.timeout(HEALTH_TIMEOUT_S), client.get("/health") as response:
                    if response.status == 200:
                        return
            await asyncio.wait([process.exited], timeout=POLL_S)
        if self._output is not None:
            await self._output.drained(1)
        raise EngineError(self._reason(f"the engine process {_ended(process.exited.result())}"))

    def _watch(self, process: EngineProcess) -> None:
        """Notice at once when the engine or one of its processes ends.

        vLLM's server outlives its EngineCore by seconds and lets requests hang meanwhile (vLLM issue #56416).
        """
        loop = asyncio.get_running_loop()
        death = self._death = loop.create_future()
        process.exited.add_done_callback(
            lambda f: self._report_death(death, f"the engine process {_ended(f.result())}")
        )
        for member in process_group.members(process.pid):
            if member.title.startswith("VLLM::"):
                try:
                    fd = os.pidfd_open(member.pid)
                except ProcessLookupError:
                    self._report_death(death, f"{member.title} ended")
                    continue
                self._watched.append(fd)
                loop.add_reader(fd, self._report_death, death, f"{member.title} (process {member.pid}) died")

    def _report_death(self, death: asyncio.Future[str], what: str) -> None:
        self._unwatch()
        if not death.done():
            death.set_result(self._reason(what))

    def _unwatch(self) -> None:
        loop = asyncio.get_running_loop()
        for fd in self._watched:
            loop.remove_reader(fd)
            os.close(fd)
        self._watched.clear()

    def _reason(self, what: str) -> str:
        lines = self._output.tail_since_mark if self._output is not None else []
        return failure_reason(lines) or what

    def _log(self, line: str) -> None:
        self._logger.log(log_level(line), "[%s] %s", self._name, line)

    def _note_progress(self, line: str) -> None:
        if self._progress is not None and (progress := parse_progress(line)):
            self._progress = progress


def _ended(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
