"""The death of a loaded engine, noticed at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from arena_server.engine import process_group
from arena_server.engine.launcher import EngineProcess


class DeathWatch:
    """Watches the engine's processes, since vLLM's server outlives its EngineCore by seconds (vLLM issue #56416).

    It would let requests hang meanwhile.
    """

    def __init__(self, process: EngineProcess, explain: Callable[[str], str]) -> None:
        """`explain` puts what has happened into the engine's own words, if it has any."""
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._explain = explain
        self._watched: list[int] = []
        process.exited.add_done_callback(lambda f: self._happened(f"the engine process {ended(f.result())}"))
        for member in process_group.members(process.pid):
            if (title := member.title).startswith("VLLM::"):
                self._watch(member.pid, title)

    def report(self, reason: str) -> None:
        """It is dead, for this reason (unless another was reported before)."""
        self.close()
        if not self.reason.done():
            self.reason.set_result(reason)

    def close(self) -> None:
        """Watch no more, except for the end of the leading process."""
        loop = asyncio.get_running_loop()
        for fd in self._watched:
            loop.remove_reader(fd)
            os.close(fd)
        self._watched.clear()

    def _watch(self, pid: int, title: str) -> None:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._happened(f"{title} ended")
            return
        self._watched.append(fd)
        what = f"{title} (process {pid}) died"
        asyncio.get_running_loop().add_reader(fd, self._happened, what)

    def _happened(self, what: str) -> None:
        if not self.reason.done():
            self.report(self._explain(what))


def ended(status: int) -> str:
    """How a process ended, by its exit code (-signal)."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
