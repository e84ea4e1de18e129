"""Environments for programs that only a benchmark needs: made once under the user's cache, then used again."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes import BenchError, running
from bench.report import step

LOG_TAIL_CHARACTERS = 2000


def directory(name: str) -> Path:
    """Where the environment `name` is, or will be."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "arena-server" / "bench-peers" / name


def is_ready(home: Path, requirements: Sequence[str]) -> bool:
    """Whether all of exactly these requirements have been installed there."""
    written = _written(home)
    return written.exists() and written.read_text() == _text(requirements)


async def ensure(name: str, requirements: Sequence[str]) -> Path:
    """The environment `name` with these packages and this Python; made with uv unless it is there already."""
    home = directory(name)
    if is_ready(home, requirements):
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    async with step(f"installing {', '.join(requirements)}"):
        await _uv(home, "venv", "--clear", "--python", sys.executable, str(home))
        python = str(home / "bin" / "python")
        # Compiled now, lest the first start pay for it.
        await _uv(home, "pip", "install", "--compile-bytecode", "--python", python, *requirements)
    _written(home).write_text(_text(requirements))  # last: an interrupted one begins anew
    return home


async def _uv(home: Path, *argv: str) -> None:
    log = home.with_suffix(".log")
    with log.open("wb") as said:
        async with running("-m", "uv", *argv, stdout=said, stderr=said) as process:
            status = await process.wait()
    if status != 0:
        raise BenchError(f"uv {argv[0]} ended with status {status}:\n{log.read_text()[-LOG_TAIL_CHARACTERS:]}")


def _written(home: Path) -> Path:
    return home / "requirements.txt"


def _text(requirements: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in requirements)
