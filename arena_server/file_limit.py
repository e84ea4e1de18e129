"""How many files and connections the process may have open."""

from __future__ import annotations

import resource

# Some containers have a hard limit of a thousand million, and some programs go through all of them before they start.
ENOUGH = 1 << 16
# Of the engines' starting, the store, the log, and whatever else is no client's.
OWN = 256


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, or to what is enough. Returns what it is then.

    Most systems begin with 1,024, for programs that use select(): the 500th running request would find no descriptor
    for its engine.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return ENOUGH if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def most_connections(files: int) -> int:
    """How many clients may be connected where that many files may be open: each may need a connection to an engine."""
    return max(16, (files - OWN) // 2)
