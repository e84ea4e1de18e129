"""The leaderboard's benchmark works and says what it promises. What it measures is no test's business."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = ("--votes", "40", "--models", "3", "--streams", "2", "--blocks", "1", "--json")


async def test_it_ends_with_its_figures_as_json() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.leaderboard", *SMALL),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        output, progress = await process.communicate()
    assert process.returncode == 0, progress.decode()
    last = json.loads(output.decode().splitlines()[-1])
    assert set(last) == {"bench", "figures", "goal", "met", "machine", "versions", "lines"}
    assert last["bench"] == "leaderboard"
    figures = last["figures"]
    assert (figures["votes"], figures["models"], figures["streams"]) == (40, 3, 2)
    assert figures["leaderboard_s"]["count"] == figures["leaderboard_with_streams_s"]["count"] == 1
    assert set(figures["gap_p95_ms"]) == set(figures["longest_gap_ms"]) == {"without", "with"}
    assert 0 < figures["gap_p95_ms"]["without"] <= figures["longest_gap_ms"]["without"]["high"]
