"""What was found, in words, and whether that meets the goal. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.evening.asking import Answered
from bench.evening.contenders import ROOM, Arena, Lru
from bench.evening.pairs import STREAMS, InUse
from bench.evening.play import Evening
from bench.evening.trace import GAP_LOADS, LEAST_TOKENS, MOST_TOKENS, PEOPLE, Battle
from bench.report import Report, spread

SIDES = (Arena.name, Lru.name)
GOAL = "in the evening a p95 wait of at most the plain LRU's, no more loads than it, and nobody refused"


def _by_side() -> dict[str, list[Any]]:
    return {name: [] for name in SIDES}


@dataclass(slots=True)
class Found:
    """All measurements, by the side's name. `unit_s` is what the evening's times counted in."""

    load_s: dict[str, list[float]] = field(default_factory=_by_side)
    cold: dict[str, list[Answered]] = field(default_factory=_by_side)
    in_use: dict[str, list[InUse]] = field(default_factory=_by_side)
    evenings: dict[str, Evening] = field(default_factory=lambda: {name: Evening() for name in SIDES})
    unit_s: float = 0.0


def missed(ours: Evening, theirs: Evening) -> list[str]:
    """What of the goal is missed, in words."""
    lines = []
    if ours.refusals:
        lines.append(f"{len(ours.refusals)} battles were refused, the first: {ours.refusals[0]}")
    if not ours.waits_s or not theirs.waits_s:
        return [*lines, "a side answered nothing"]
    ours_p95_s, theirs_p95_s = ours.p95_s, theirs.p95_s
    if ours_p95_s > theirs_p95_s:
        lines.append(f"the p95 wait is {ours_p95_s / theirs_p95_s:.2f} of the plain LRU's")
    if sum(ours.loads) > sum(theirs.loads):
        lines.append(f"{sum(ours.loads)} loads against {sum(theirs.loads)}")
    return lines


def judged(
    host: Mapping[str, Any], found: Found, models: Sequence[str], blocks: Sequence[Sequence[Battle]], seed: int
) -> Report:
    """The report."""
    ours, theirs = (found.evenings[name] for name in SIDES)
    not_met = missed(ours, theirs)
    figures = {
        "models": list(models),
        "room": ROOM,
        "battles": sum(map(len, blocks)),
        "blocks": len(blocks),
        "seed": seed,
        "gap_loads": GAP_LOADS,
        "unit_s": found.unit_s,
        "load_s": found.load_s,
        "cold_pair_s": {name: [pair.wait_s for pair in pairs] for name, pairs in found.cold.items()},
        "pair_in_use_s": {name: [use.pair.wait_s for use in uses] for name, uses in found.in_use.items()},
        "others_wait_s": {name: [use.others_wait_s for use in uses] for name, uses in found.in_use.items()},
        "evening": {name: evening.figures() for name, evening in found.evenings.items()},
        "missed": not_met,
    }
    figures["ratios"] = ratios = _ratios(figures, ours, theirs)
    lines = [
        f"{len(models)} models with room for {ROOM}, real vLLM; both sides start engines from arena-server's zygote.",
        "That is generous to the plain LRU: with vLLM's own server, as the recipe has it, each of its loads would take",
        "as much longer as bench.cold_start measures. What is compared here is only who is loaded when.",
        "Nothing sleeps on a CPU: who leaves is stopped. Ratios are arena-server's to the plain LRU's.",
        *_pair_lines(figures, ratios),
        *_evening_lines(figures, ratios, found),
        *(f"Missed: {line}" for line in not_met),
    ]
    return Report("evening", host, lines, figures, GOAL, not not_met)


def _ratios(figures: Mapping[str, Any], ours: Evening, theirs: Evening) -> dict[str, float]:
    """Ours to theirs: medians of the pairs, and of the evening. Under 1: we are quicker, or load less."""
    ratios = {}
    for kind in ("load_s", "cold_pair_s", "pair_in_use_s"):
        if all(figures[kind].values()):
            ratios[kind] = statistics.median(figures[kind][SIDES[0]]) / statistics.median(figures[kind][SIDES[1]])
    if ours.waits_s and theirs.waits_s:
        ratios["wait_p50"] = ours.p50_s / theirs.p50_s
        ratios["wait_p95"] = ours.p95_s / theirs.p95_s
    ratios["loads"] = sum(ours.loads) / max(1, sum(theirs.loads))
    return ratios


def _pair_lines(figures: Mapping[str, Any], ratios: Mapping[str, float]) -> list[str]:
    kinds = {
        "load_s": "One cold model, seconds to its first text",
        "cold_pair_s": "Two cold models asked for at once, seconds to the first text of both",
        "pair_in_use_s": f"The same, two others in use ({STREAMS} streams each) and one place free",
        "others_wait_s": "    meanwhile, those who use the others: the longest wait for an answer to begin",
    }
    lines = []
    for kind, title in kinds.items():
        if not all(figures[kind].values()):
            continue  # they were left out
        lines.append(title)
        lines += [f"    {name:<14}{spread(figures[kind][name])}" for name in SIDES]
        if kind in ratios:
            lines.append(f"    ratio         {ratios[kind]:.2f}")
        if kind == "pair_in_use_s":
            lines.append(
                "    (arena-server leaves busy models alone for what a swap costs, the plain LRU closes them at once)"
            )
    return lines


def _evening_lines(figures: Mapping[str, Any], ratios: Mapping[str, float], found: Found) -> list[str]:
    gap_s = GAP_LOADS * found.unit_s
    lines = [
        f"The evening: {figures['battles']} battles in {figures['blocks']} blocks in turn, of {PEOPLE} people; "
        f"one every {GAP_LOADS:g} cold loads",
        f"({gap_s:.1f} s) in the mean, answers of {LEAST_TOKENS} to {MOST_TOKENS} tokens. "
        "A wait is until both sides have begun.",
        "                wait s: p50     p95 (by block)             longest   sides apart p95   loads   refused",
    ]
    for name in SIDES:
        evening = found.evenings[name]
        if evening.waits_s:
            lines.append(_evening_line(name, evening))
    shown = (
        f"{kind.replace('wait_', '')} {ratios[kind]:.2f}"
        for kind in ("wait_p50", "wait_p95", "loads")
        if kind in ratios
    )
    return [*lines, f"    ratio         {', '.join(shown)}"]


def _evening_line(name: str, evening: Evening) -> str:
    by_block = [Evening([block]).p95_s for block in evening.blocks if block]
    return (
        f"    {name:<14}{evening.p50_s:10.1f}{evening.p95_s:8.1f} "
        f"{f'({min(by_block):.1f} to {max(by_block):.1f})':<19}{max(evening.waits_s):10.1f}{evening.apart_p95_s:18.1f}"
        f"{sum(evening.loads):8}{len(evening.refusals):10}"
    )
