"""The daemon by itself: a model's cold start, its own cost, the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.cost import MB, MOST_IDLE, MOST_RESIDENT_MB, MOST_UP_S, SIDES
from bench.pictures.canvas import COLOURS, OTHERS, OURS, bars, canvas, goal_line, legend, number

Figures = Mapping[str, Any]


def cold_start(figures: Figures) -> Figure:
    """Both sides' phases one after the other, and each phase's medians."""
    sides = {"vLLM's own server": figures["vllm"], "arena-server": figures["arena"]}
    drawn, (axes, near) = canvas(f"Where does a cold start's time go? ({figures['model']})", rows=5, columns=2)
    for place, side in enumerate(sides.values()):
        end = _phases(axes, place, side["phase_s"])
        text = f"{number(side['healthy_s']['median'])} s ({number(side['fixed_s']['median'])} fixed)"
        axes.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(sides)), list(sides))
    axes.invert_yaxis()
    axes.margins(x=0.5)
    legend(drawn, axes)
    axes.set_xlabel("seconds until healthy: medians of the phases")
    _phases(near, 0, figures["arena"]["phase_s"])
    near.set(yticks=[], ylim=(1, -1), xlabel="seconds: arena-server alone, enlarged")
    for each in (axes, near):
        each.tick_params(length=0)
        each.grid(axis="x")
    return drawn


def _phases(axes: Axes, place: float, phase_s: Figures) -> float:
    """A bar of them; returns where it ends."""
    left = 0.0
    for (name, phase), colour in zip(phase_s.items(), COLOURS[: len(phase_s)], strict=True):
        axes.barh(place, phase["median"], 0.6, left=left, color=colour, label=None if place else name)
        left += phase["median"]
    return left


def cost(figures: Figures) -> Figure:
    """Start, rest and memory beside the goals, and beside a bare FastAPI service."""
    start, rest = figures["start"], figures["idle"]
    shown = (
        ("up", "seconds to /health", MOST_UP_S, [start["up_s"][side]["median"] for side in SIDES]),
        ("idle", "% of a core", 100 * MOST_IDLE, [100 * rest["share_of_a_core"][side]["median"] for side in SIDES]),
        ("memory", "MB resident", MOST_RESIDENT_MB, [rest["memory_bytes"][side]["resident"] / MB for side in SIDES]),
    )
    drawn, places = canvas("What does the daemon itself cost?", rows=4.5, columns=len(shown))
    for axes, (title, unit, most, values) in zip(places, shown, strict=True):
        bars(axes, SIDES, {title: values}, (OURS,))
        axes.containers[0][1].set_facecolor(OTHERS)
        axes.set_xlabel(unit)
        axes.set_xlim(0, 1.25 * max(most, *values))
        axes.locator_params(axis="x", nbins=4)
        goal_line(axes, most, f"goal: at most {most:g}")
    for axes in places[1:]:
        axes.set_yticks([])
    return drawn


def leaderboard(figures: Figures) -> Figure:
    """Its own time, and the gaps between tokens meanwhile."""
    drawn, (own, gaps) = canvas("Do streams notice that the leaderboard is made?", rows=5, columns=2)
    of = [figures["leaderboard_s"], figures["leaderboard_with_streams_s"]]
    middle = {"s": [one["median"] for one in of]}
    ends = {"s": [(one["low"], one["high"]) for one in of]}
    bars(own, ["no streams", f"{figures['streams']} streams"], middle, (OURS,), ranges=ends)
    own.set_xlabel(f"seconds for a leaderboard of {figures['votes']:,} votes")
    sides = ("without", "with")
    longest = [figures["longest_gap_ms"][side] for side in sides]
    middle = {"ms": [one["median"] for one in longest]}
    ends = {"ms": [(one["low"], one["high"]) for one in longest]}
    bars(gaps, [f"{side} leaderboard" for side in sides], middle, (OURS,), ranges=ends)
    gaps.set_xlabel("longest gap between tokens of a block, ms")
    return drawn
