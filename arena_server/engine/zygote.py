"""The zygote: imports vLLM once, then forks one engine per request; it owns and reaps all of them.

One thread, no event loop, no CUDA context: whatever the zygote holds, every engine inherits.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from typing import Any, NoReturn

from arena_server.engine import process_group
from arena_server.engine.packets import MAX_PACKET
from arena_server.engine.parent_death import adopt_orphans, descendants_die_with_parent, die_with_parent


@dataclass(slots=True)
class Child:
    """An engine's leading process (also the id of its process group) and, once it ended, its wait status."""

    id: int
    pid: int
    status: int | None = None


class Zygote:
    """Owns the engines' processes. `run` returns when the daemon has closed its end."""

    def __init__(self, control: socket.socket, fork: bool) -> None:
        self._control = control
        self._fork = fork
        self._server: Any = None
        self._children: dict[int, Child] = {}

    def run(self) -> None:
        """Import, report, serve requests; at the end kill every engine."""
        self._report_ready(self._import() if self._fork else "engine_start is spawn")
        # From here on a dying daemon is noticed in the loop, where engines can be killed with all their
        # children; during the imports above only SIGKILL was certain to end this process.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        die_with_parent(os.getppid(), signal.SIGTERM)
        wakeup_r, wakeup_w = os.pipe()
        for fd in (wakeup_r, wakeup_w):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup_w, warn_on_full_buffer=False)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._control, selectors.EVENT_READ)
                selector.register(wakeup_r, selectors.EVENT_READ)
                while self._step(selector, wakeup_r):
                    pass
        finally:
            for child in self._children.values():
                process_group.kill(child.pid)

    def _import(self) -> str | None:
        """Import vLLM. Returns why engines cannot be forked, None if they can."""
        gc.disable()  # the imports make few cycles; looking for them takes an eighth of the time
        try:
            from arena_server.engine import vllm_server

            self._server = vllm_server.import_vllm()
            vllm_server.show_title("arena-server: zygote")
            vllm_server.preload(self._server)
            if vllm_server.cuda_touched():
                return "CUDA was initialised by the imports"
        except Exception as e:  # a broken installation can raise anything; the engines will say it again
            return f"importing vLLM failed: {type(e).__name__}: {e}"
        finally:
            gc.enable()
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            return f"the imports left {threads} threads running"
        # Collections in the engines must not touch, and so copy, the pages shared with this process.
        gc.collect()
        gc.freeze()
        return None

    def _report_ready(self, cannot_fork: str | None) -> None:
        self._fork = cannot_fork is None
        version = self._server.version if self._server is not None else None
        self._send({"event": "ready", "vllm": version, "cannot_fork": cannot_fork})

    def _step(self, selector: selectors.BaseSelector, wakeup: int) -> bool:
        """Wait for one thing to happen and deal with it; False once the daemon is gone."""
        for key, _ in selector.select():
            if key.fileobj is self._control:
                try:
                    packet, fds, _, _ = socket.recv_fds(self._control, MAX_PACKET, 1)
                except ConnectionResetError:  # the daemon died with our reports unread
                    return False
                if not packet:
                    return False
                self._obey(json.loads(packet), fds)
            else:
                with contextlib.suppress(BlockingIOError):
                    os.read(wakeup, 4096)
        self._reap()
        return True

    def _obey(self, request: dict[str, Any], fds: list[int]) -> None:
        if request["op"] == "start":
            self._start(request, fds[0])
        elif child := self._children.get(request["id"]):
            process_group.kill(child.pid)

    def _start(self, request: dict[str, Any], log_fd: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_engine(request, log_fd, parent)
        os.close(log_fd)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # the child does the same: whichever runs first, the group exists
        self._children[request["id"]] = Child(request["id"], pid)
        self._send({"event": "started", "id": request["id"], "pid": pid})

    def _become_engine(self, request: dict[str, Any], log_fd: int, parent: int) -> NoReturn:
        """In the forked child: shed what belongs to the zygote, then serve. Never returns."""
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for sig in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(sig, signal.SIG_DFL)
            with open(os.devnull) as devnull:
                os.dup2(devnull.fileno(), 0)
            os.dup2(log_fd, 1)
            os.dup2(log_fd, 2)
            os.environ.update(request["env"])
            tempfile.tempdir = None  # TMPDIR may have changed since the imports looked at it
            if request["exec"] or not self._fork:
                # Descriptors of the zygote are close-on-exec, as all that Python opens.
                module = "arena_server.engine.vllm_server"
                os.execv(sys.executable, [sys.executable, "-m", module, str(parent), *request["argv"]])
            self._control.close()
            from arena_server.engine.vllm_server import keep_logging, runs_on_cpu, serve, show_title

            show_title(f"arena-server: engine {request['name']}")
            keep_logging(request["argv"], on_cpu=runs_on_cpu())
            serve(self._server, request["argv"])
        except BaseException as e:
            print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)

    def _reap(self) -> None:
        leaders = {child.pid: child for child in self._children.values()}
        while (ended := _peek_ended()) is not None:
            if child := leaders.get(ended):
                # While the leader is not reaped its group's number cannot be given to another process.
                process_group.kill(child.pid)
                _, status = os.waitpid(ended, 0)
                child.status = os.waitstatus_to_exitcode(status)
            else:
                os.waitpid(ended, 0)
        for child in [c for c in self._children.values() if c.status is not None and not process_group.members(c.pid)]:
            del self._children[child.id]
            self._send({"event": "exited", "id": child.id, "status": child.status})

    def _send(self, event: dict[str, Any]) -> None:
        # A daemon that is gone shows in the next read, which ends the loop.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(json.dumps(event).encode())


def _peek_ended() -> int | None:
    """The pid of a child that has ended and is not reaped yet, if any."""
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return info.si_pid if info is not None else None


def main() -> None:
    """Entry of the zygote: `python -m arena_server.engine.zygote CONTROL_FD PARENT_PID fork|spawn`."""
    control_fd, parent, start = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    die_with_parent(parent)
    # Ctrl-C in a terminal goes to every process of the foreground group; the daemon decides what ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_orphans()
    descendants_die_with_parent()
    try:
        Zygote(socket.socket(fileno=control_fd), fork=start == "fork").run()
    finally:
        sys.stderr.flush()
        # Nothing that the imports registered for the interpreter's exit is of use here, and some of it is slow.
        os._exit(0)


if __name__ == "__main__":
    main()
