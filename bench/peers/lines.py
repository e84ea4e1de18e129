"""The figures as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.peers import fastchat
from bench.peers.door import Door
from bench.peers.engine import DIRECT

NAME_WIDTH = 14


def about_lines(doors: Sequence[Door], pace: float) -> list[str]:
    """What stands in front of what, and what flatters whom."""
    return [
        f"The engine is a stand-in that streams {pace:g} tokens/s, the first at once.",
        "Direct: its Unix socket. All front doors are up at once on TCP ports, and asked in turn.",
        *(f"    {door.name:{NAME_WIDTH}}{door.about}" for door in doors),
        *(_FASTCHAT if any(door.name == fastchat.NAME for door in doors) else ()),
        "",
    ]


_FASTCHAT = (
    "FastChat's own worker would load a model. The stand-in worker speaks its protocol at the engine's pace and is",
    "the engine, too: FastChat has no hop from worker to engine here, and no worker's CPU is counted: generous.",
)


def first_token_lines(what: str, figures: Mapping[str, Any]) -> list[str]:
    """One client."""
    lines = [f"{what}, {figures['requests']} requests each: ms to the first token"]
    for name, ms in figures["first_token_ms"].items():
        line = f"    {name:{NAME_WIDTH}}median {ms['median']:7.2f}, p95 {ms['p95']:7.2f}"
        if name != DIRECT:
            added, by_block = figures["added_ms"][name], figures["added_ms_by_block"][name]
            line += f"; added median {added['median']:+.2f}, p95 {added['p95']:+.2f}; by block {by_block}"
        lines.append(line)
    return [*lines, ""]


def stream_lines(figures: Mapping[str, Any]) -> list[str]:
    """Many streams."""
    lines = [f"{figures['streams']} streams, {figures['asked_tokens_per_s']:,.0f} tokens/s asked for"]
    for name, rate in figures["tokens_per_s"].items():
        lines.append(f"    {name:{NAME_WIDTH}}{rate} tokens/s")
        if name != DIRECT:
            added = figures["added_ms"][name]
            first = f"p50 {added['p50']:+.2f} ms, p99 {added['p99']:+.2f} ms" if added else "of no request"
            lines.append(
                f"    {'':{NAME_WIDTH}}ratio by block {figures['ratio_by_block'][name]}; first token {first}; "
                f"{figures['cpu_ms_per_1000_chunks'][name]:.1f} ms of CPU per 1,000 chunks"
            )
    return [*lines, ""]
