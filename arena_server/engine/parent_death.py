"""Nobody outlives the daemon: every process here asks the kernel to be killed when its parent dies.

SIGKILL on vLLM's API server leaves its EngineCore and workers running and holding memory
(vLLM issue #55510), so the request is renewed in every process that is forked further down.
Linux only: prctl(2), PR_SET_PDEATHSIG. The signal is tied to the *thread* that forked, so processes
are forked from main threads only.
"""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}, {value}): {os.strerror(error)}")


def die_with_parent(parent: int, sig: signal.Signals = signal.SIGKILL) -> None:
    """Ask for `sig` when process `parent` (this one's parent, by pid) dies; exit if it already has."""
    _prctl(PR_SET_PDEATHSIG, sig)
    # The parent may have died between the fork and the call above: then no signal will ever come.
    if os.getppid() != parent:
        os._exit(1)


def descendants_die_with_parent() -> None:
    """Make every process forked from here on (through os.fork, at any depth) die with its parent."""
    forker = [os.getpid()]

    def remember() -> None:
        forker[0] = os.getpid()

    os.register_at_fork(before=remember, after_in_child=lambda: die_with_parent(forker[0]))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent died, so that they can be reaped and counted."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
