"""The processes a benchmark starts, and that they end with it, also on Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import IO, Any

import aiohttp
import uvloop

from arena_server.engine import process_group

ORDERLY_END_S = 3.0
HEALTH_POLL_S = 0.02


class BenchError(Exception):
    """Nothing could be measured. The text says why."""


def run(measure: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a benchmark on uvloop, as the daemon runs. Returns the exit status; a signal ends it in order."""

    async def interruptible() -> int:
        work = asyncio.create_task(measure())
        loop = asyncio.get_running_loop()

        def end() -> None:
            # Once: cancelled again while it ends its processes, it would leave those that do not end by themselves.
            if not work.cancelling():
                work.cancel()

        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(sig, end)
        try:
            await work
        except asyncio.CancelledError:
            print("\nInterrupted", file=sys.stderr)
            return 130
        except BenchError as e:
            print(f"\n{e}", file=sys.stderr)
            return 1
        return 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(interruptible())


@contextlib.asynccontextmanager
async def running(
    *argv: str,
    env: Mapping[str, str] | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process in a group of its own; at the end the whole group is gone."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        # What is installed has its bytecode: no benchmark measures how it is made.
        env={name: value for name, value in {**os.environ, **(env or {})}.items() if name != "PYTHONDONTWRITEBYTECODE"},
        # Ctrl-C is for the benchmark, which then ends this in order. (Not in a session of its own: see demo/daemon.py.)
        preexec_fn=os.setpgrp,
    )
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ORDERLY_END_S):
            await process.wait()
    while process_group.members(process.pid):
        process_group.kill(process.pid)
        await asyncio.sleep(0.02)
    await process.wait()


async def until_healthy(
    client: aiohttp.ClientSession,
    process: asyncio.subprocess.Process,
    limit_s: float,
    log: Path | None = None,
    path: str = "/health",
) -> None:
    """Wait until a GET of `path` is answered with 200. Raises BenchError, with the end of `log`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while process.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with client.get(path) as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(HEALTH_POLL_S)
    state = "did not answer" if process.returncode is None else f"ended with status {process.returncode}"
    tail = f"; the end of what it said:\n{log.read_text(errors='replace')[-2000:]}" if log is not None else ""  # noqa: ASYNC240
    raise BenchError(f"process {process.pid} {state}{tail}")
