"""The private directory of a running daemon, where its engines' sockets live."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from arena_server.errors import ConfigError

# sun_path holds 108 bytes (unix(7)). What comes below the directory: "/<pid>/<engine>/<36 characters of ZeroMQ's>".
MAX_BASE_BYTES = 108 - len("/1234567/1234/") - 36 - 1


def default_base() -> Path:
    """Where run directories go: the service manager's choice, the user's, or the temporary directory."""
    for variable in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        # systemd separates several by colons; the first is ours.
        if (path := os.environ.get(variable, "").partition(":")[0]) and os.access(path, os.W_OK):
            return Path(path) / "arena-server"
    return Path(tempfile.gettempdir()) / f"arena-server-{os.getuid()}"


def make_run_dir(base: Path | None) -> Path:
    """A directory of this process's own under `base`, open to its user alone.

    Removes what daemons that were killed have left there. Raises ConfigError.
    """
    base = base or default_base()
    if len(os.fsencode(base)) > MAX_BASE_BYTES:
        raise ConfigError([f"run_dir: {base} is too long for the sockets in it (at most {MAX_BASE_BYTES} bytes)"])
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        # lstat: a link that somebody laid in a shared directory could lead to any of ours.
        if base.lstat().st_uid != os.getuid():
            raise ConfigError([f"run_dir: {base} belongs to another user (choose another `run_dir`)"])
        for left in base.iterdir():
            if left.name.isdigit() and not Path("/proc", left.name).exists():
                shutil.rmtree(left, ignore_errors=True)
        directory = base / str(os.getpid())
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
    except OSError as e:
        raise ConfigError([f"run_dir: {base}: {e.strerror}"]) from None
    return directory


def remove_run_dir(directory: Path) -> None:
    """Remove the directory, and its base if it is empty now."""
    shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(OSError):
        directory.parent.rmdir()
