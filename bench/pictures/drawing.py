"""Which benchmark's picture is drawn by what, and where it lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.figure

from bench.pictures import daemon, models, relay
from bench.pictures.canvas import save, style
from bench.result import Result

Draw = Callable[[relay.Figures], matplotlib.figure.Figure]

DRAWN: tuple[Draw, ...] = (
    relay.overhead, relay.against_vllm, relay.peers, daemon.cold_start, models.evening, models.while_loading,
    daemon.cost, daemon.leaderboard, models.policies, models.gpu_swap, relay.gpu_throughput,
)  # fmt: skip
PICTURES = {draw.__name__: draw for draw in DRAWN}


def draw(result: Result, directory: Path) -> Path | None:
    """Draw a result's picture; returns its path, or None if that benchmark has none."""
    if result.bench not in PICTURES:
        return None
    path = directory / f"{result.bench}.svg"
    with style():
        save(PICTURES[result.bench](result.figures), path, result.mark())
    return path
