"""Figures as `bench.gpu_swap` finds them, on a machine that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.report import Spread, spread

GIB = 1 << 30
HOST: dict[str, Any] = {
    "cpu": "Some CPU", "cores": 16, "memory_gib": 128.0, "load_average": 0.5,
    "device": "x", "device_gib": 1, "torch": "2", "driver": "5",
}  # fmt: skip
BYTES: dict[str, int | None] = {
    **dict.fromkeys(("awake", "weights", "asleep_1", "asleep_2"), GIB), "load_peak": None,
}  # fmt: skip


def seconds_of(wake_s: Sequence[float]) -> dict[str, Spread]:
    """Of the engines; vLLM's own server takes 40 s, and a wake at either level these."""
    seconds = {"vllm": spread([40.0, 30.0, 60.0]), "load": spread([10.0])}
    for level in (1, 2):
        seconds[f"sleep_{level}"] = seconds[f"first_token_{level}"] = spread([1.0])
        seconds[f"wake_{level}"] = spread(wake_s)
    return seconds


def swap_of(quiet_s: float) -> dict[str, Spread]:
    """Of swaps at one level; under load they take twice as long."""
    return {"quiet": spread([quiet_s]), "busy": spread([2 * quiet_s])}
