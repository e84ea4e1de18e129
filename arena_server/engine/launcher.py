"""The daemon's end of the zygote: starts it, asks it for engines, and notices when either ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from arena_server.engine import process_group
from arena_server.engine.base import EngineError
from arena_server.engine.output import EngineOutput
from arena_server.engine.packets import MAX_PACKET
from arena_server.engine.progress import log_level

logger = logging.getLogger(__name__)

ORDERLY_END_S = 5.0

# OpenBLAS and tokenizers start threads while they are imported, and a process with threads must not fork.
ZYGOTE_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(slots=True)
class EngineProcess:
    """One engine's processes. `exited` is done when none is left, with the leader's exit code (-signal)."""

    id: int
    started: asyncio.Future[int]
    exited: asyncio.Future[int]

    @property
    def pid(self) -> int:
        """The leading process, which is also the id of the process group."""
        return self.started.result()


@dataclass(slots=True)
class _Zygote:
    process: asyncio.subprocess.Process
    control: socket.socket
    output: EngineOutput
    engines: dict[int, EngineProcess] = field(default_factory=dict)


class Launcher:
    """Launches engines through a zygote, which is started on demand and again after it died.

    All methods run on one event loop, in the main thread: the kernel's parent-death signal is tied to the
    thread that forked.
    """

    def __init__(
        self, start: Literal["fork", "spawn"], environment: Mapping[str, str], secret: Collection[str] = ()
    ) -> None:
        """`environment` is added to the daemon's own, of which engines do not get the variables in `secret`."""
        self._start = start
        self._secret = frozenset(secret)
        self._environment = {**environment, **ZYGOTE_ENVIRONMENT}
        self._zygote: _Zygote | None = None
        self._starting = asyncio.Lock()
        self._ids = itertools.count(1)
        self._closed = False
        self._cleanups: set[asyncio.Task[None]] = set()

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's pid while it lives."""
        return self._zygote.process.pid if self._zygote is not None else None

    async def warm_up(self) -> None:
        """Start the zygote, so that its imports are under way before the first engine is asked for."""
        await self._ensure_zygote()

    async def launch(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], log_fd: int, *, fresh: bool = False
    ) -> EngineProcess:
        """Start an engine process and return once it exists, which can take as long as vLLM's imports.

        `name` is shown in `ps`; `argv` follows `vllm serve`; `env` is added to the zygote's environment; `log_fd`
        becomes its stdout and stderr and stays the caller's to close; `fresh` asks for a new interpreter, for settings
        that are read at import.
        Raises EngineError if the zygote cannot be started or dies meanwhile.
        """
        zygote = await self._ensure_zygote()
        loop = asyncio.get_running_loop()
        engine = EngineProcess(next(self._ids), loop.create_future(), loop.create_future())
        request = {"op": "start", "id": engine.id, "name": name, "argv": list(argv), "env": dict(env), "exec": fresh}
        zygote.engines[engine.id] = engine
        try:
            socket.send_fds(zygote.control, [json.dumps(request).encode()], [log_fd])
            await asyncio.shield(engine.started)
        except OSError as e:
            raise EngineError(f"the zygote took no request: {e}") from e
        except asyncio.CancelledError:
            # Nobody will hold this engine: it must not be left running.
            self.kill(engine)
            raise
        return engine

    def kill(self, engine: EngineProcess) -> None:
        """SIGKILL to all of the engine's processes; `engine.exited` tells when they are gone."""
        if self._zygote is not None and engine.id in self._zygote.engines:
            with contextlib.suppress(OSError):  # a dead zygote's engines die with it
                self._zygote.control.send(json.dumps({"op": "kill", "id": engine.id}).encode())

    async def close(self) -> None:
        """End the zygote and every engine; return when all are gone."""
        self._closed = True
        if self._zygote is not None:
            await self._bury(self._zygote)
        await asyncio.gather(*self._cleanups)

    async def _ensure_zygote(self) -> _Zygote:
        async with self._starting:
            return self._zygote or await self._start_zygote()

    async def _start_zygote(self) -> _Zygote:
        if self._closed:
            raise EngineError("the daemon is stopping")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        output = EngineOutput(lambda line: logger.log(log_level(line), "zygote: %s", line), lambda _: None)
        log_fd = await output.open()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "arena_server.engine.zygote"),
                *(str(theirs.fileno()), str(os.getpid()), self._start),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                env={**{n: v for n, v in os.environ.items() if n not in self._secret}, **self._environment},
            )
        finally:
            theirs.close()
            os.close(log_fd)
        zygote = self._zygote = _Zygote(process, ours, output)
        asyncio.get_running_loop().add_reader(ours, self._read, zygote)
        return zygote

    def _read(self, zygote: _Zygote) -> None:
        """Take in what the zygote reports (event loop callback)."""
        while True:
            try:
                packet = zygote.control.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                cleanup = asyncio.get_running_loop().create_task(self._bury(zygote))
                self._cleanups.add(cleanup)
                cleanup.add_done_callback(self._cleanups.discard)
                return
            self._take(zygote, json.loads(packet))

    def _take(self, zygote: _Zygote, event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            if self._start == "fork" and event["cannot_fork"]:
                logger.warning("Engines start the slow way, each in a new process: %s", event["cannot_fork"])
            elif self._start == "fork":
                logger.info(
                    "vLLM %s is imported; engines are forked from process %d",
                    event["vllm"],
                    zygote.process.pid,
                )
        elif event["event"] == "started":
            zygote.engines[event["id"]].started.set_result(event["pid"])
        elif event["event"] == "exited":
            zygote.engines.pop(event["id"]).exited.set_result(event["status"])

    async def _bury(self, zygote: _Zygote) -> None:
        """The zygote died, or has to: see that its engines are gone too, then say so. Runs once per zygote."""
        if self._zygote is not zygote:
            return
        self._zygote = None
        asyncio.get_running_loop().remove_reader(zygote.control)
        zygote.control.close()  # the zygote takes this as the order to end
        try:
            await asyncio.wait_for(zygote.process.wait(), ORDERLY_END_S)
        except TimeoutError:
            zygote.process.kill()
            await zygote.process.wait()
        if not self._closed:
            logger.error("The zygote died (status %s), and its engines with it", zygote.process.returncode)
        for engine in zygote.engines.values():
            if not engine.started.done():
                engine.started.set_exception(EngineError("the zygote died before the engine started"))
                engine.started.exception()  # its caller may be gone: then nobody else would retrieve it
                continue
            # The kernel has killed forked engines; what was spawned below one of them it has not.
            while process_group.members(engine.pid):
                process_group.kill(engine.pid)
                await asyncio.sleep(0.02)
            engine.exited.set_result(-9)
        await zygote.output.drained(1)
