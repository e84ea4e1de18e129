"""A benchmark run as a user runs it: `python -m bench.NAME ... --json` in a process of its own, and its JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REPORT_KEYS = {"bench", "figures", "goal", "met", "machine", "versions", "lines"}
MACHINE_KEYS = {"cpu", "cores", "memory_gib", "load_average"}
LIMIT_S = 120.0


async def output_of(
    name: str, *options: str, env: Mapping[str, str] | None = None, limit_s: float = LIMIT_S
) -> tuple[int, str, str]:
    """Run `python -m bench.NAME`, with `env` on top of this environment. Exit status, output, progress."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"bench.{name}", *options),
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(limit_s):
            output, progress = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()  # it ends what it started
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode(), progress.decode()


async def report_of(
    name: str, *options: str, env: Mapping[str, str] | None = None, limit_s: float = LIMIT_S
) -> dict[str, Any]:
    """Run it with `--json`: it ends well, and its last line is a report, which is given back."""
    status, output, progress = await output_of(name, *options, "--json", env=env, limit_s=limit_s)
    assert status == 0, progress
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    assert_is_report(report)
    return report


def assert_is_report(report: Mapping[str, Any]) -> None:
    """It has all that `bench.report.Report` promises."""
    assert set(report) == REPORT_KEYS
    assert isinstance(report["bench"], str)
    assert isinstance(report["goal"], str)
    assert isinstance(report["met"], bool)
    assert report["figures"]
    assert report["lines"]
    assert set(report["machine"]) >= MACHINE_KEYS  # on a GPU, the device, too
    assert {"arena-server", "python"} <= set(report["versions"])
