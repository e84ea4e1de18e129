"""Models that come and go: cold starts, an evening of battles, streams meanwhile, the pool in simulation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from bench.pictures.canvas import COLOURS, FAINT, OTHERS, OURS, bars, canvas, dots, legend, number, plain_log

Figures = Mapping[str, Any]
LEAST_S = 1.0  # where the axis of waits begins


def evening(figures: Figures) -> Figure:
    """The waits of both sides as shares of the battles, and pairs from cold."""
    sides = figures["evening"]
    drawn, (waits, pairs) = canvas("How long does a battle wait for its two models?", rows=8, columns=2)
    for (name, side), colour in zip(sides.items(), (OURS, OTHERS), strict=True):
        ordered = sorted(wait for block in side["wait_s"] for wait in block)
        shares = [100 * (n + 1) / len(ordered) for n in range(len(ordered))]
        waits.step(ordered, shares, where="post", color=colour, label=name, linewidth=1.8)
    waits.axhline(95, color=COLOURS[2], linewidth=0.8, linestyle="--")
    waits.set(xlabel="seconds until both sides have begun", ylabel="% of battles", ylim=(0, 101))
    waits.set_xlim(left=0)
    waits.grid(axis="both")
    legend(drawn, waits)
    kinds = {"load_s": "one cold model", "cold_pair_s": "two cold models", "pair_in_use_s": "two, others in use"}
    kinds = {kind: title for kind, title in kinds.items() if all(figures[kind].values())}  # `--runs 0` leaves pairs out
    names = list(sides)
    medians = {name: [statistics.median(figures[kind][name]) for kind in kinds] for name in names}
    ranges = {name: [(min(figures[kind][name]), max(figures[kind][name])) for kind in kinds] for name in names}
    bars(pairs, list(kinds.values()), medians, (OURS, OTHERS), ranges=ranges)
    pairs.set_xlabel("seconds to the first text of all asked for")
    return drawn


def while_loading(figures: Figures) -> Figure:
    """The longest gap between tokens of each round."""
    drawn, places = canvas("Does a stream notice that another model loads?", rows=8, columns=3)
    shown = (
        ("paced", "through", f"{figures['paced']['streams']} paced streams, through the daemon"),
        ("paced", "past", "the same, past the daemon"),
        ("free", "through", "a real model's streams"),
    )
    colours = {"quiet": OTHERS, "loading": OURS, "stopping": COLOURS[5]}
    for axes, (kind, where, title) in zip(places, shown, strict=True):
        gaps = figures[kind][where]
        for place, (moment, values) in enumerate(gaps["longest_ms_by_round"].items()):
            nudge = [place + 0.25 * (n / max(1, len(values) - 1) - 0.5) for n in range(len(values))]
            axes.plot(nudge, values, "o", color=colours[moment], markersize=4, alpha=0.75)
            middle = gaps["longest_ms"][moment]["median"]
            axes.plot([place - 0.3, place + 0.3], [middle, middle], color=colours[moment], linewidth=2)
            axes.annotate(number(middle), (place + 0.32, middle), va="center", fontsize=8)
        axes.set_xticks(range(len(gaps["longest_ms_by_round"])), list(gaps["longest_ms_by_round"]), fontsize=8.5)
        axes.set_title(f"{title}\nloading to quiet: {gaps['ratio']:.2f} times", fontsize=8.5)
        axes.set_ylim(bottom=0)
        axes.set_xlim(-0.5, 2.8)
        axes.grid(axis="y")
    places[0].set_ylabel("longest gap of each round, ms")
    return drawn


def policies(figures: Figures) -> Figure:
    """p95 of the waits by trace, the core beside plain LRU, LRU with sleep and the strict queue."""
    titles = {"core": "arena-server's core", "lru": "plain LRU", "lru+sleep": "LRU with sleep", "fifo": "strict queue"}
    colours = dict(zip(titles, (OURS, COLOURS[0], COLOURS[2], COLOURS[5]), strict=True))
    workloads = figures["workloads"]
    rows = sum(1 for table in workloads for row in table["rows"] if row["policy"] in titles)
    drawn, (axes,) = canvas("How long do 95 of 100 requests wait at most, in simulation?", rows=rows * 0.72)
    place, ticks = 0.0, {}
    for table in workloads:
        ours = [row for row in table["rows"] if row["policy"] in titles]
        for row in ours:
            spot = (max(row["p95_s"], LEAST_S), place)
            axes.axhline(place, color=FAINT, linewidth=0.6, zorder=0)
            axes.plot(*spot, "o", color=colours[row["policy"]], markersize=5)
            axes.annotate(number(row["p95_s"]), spot, (4, 0), textcoords="offset points", va="center", fontsize=7)
            place += 1
        ticks[place - (len(ours) + 1) / 2] = f"{table['workload']}, {'sleep' if table['sleeps'] else 'no sleep'}"
        place += 0.8
    for policy, title in titles.items():
        axes.plot([], [], "o", color=colours[policy], label=title)
    legend(drawn, axes)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.margins(y=0.03)
    axes.grid(axis="x")
    plain_log(axes, LEAST_S / 1.2)
    axes.set_xlim(
        right=2
        * max(LEAST_S, *(row["p95_s"] for table in workloads for row in table["rows"] if row["policy"] in titles))
    )
    axes.set_xlabel("seconds, p95 (log)")
    return drawn


def gpu_swap(figures: Figures) -> Figure:
    """Seconds of each step."""
    seconds = figures["seconds"]
    titles = {
        "vllm": "cold, vLLM's own server", "load": "cold, from the zygote",
        "wake_1": "waking, level 1", "first_token_1": "waking, first token, level 1",
        "wake_2": "waking, level 2", "first_token_2": "waking, first token, level 2",
        "sleep_1": "falling asleep, level 1", "sleep_2": "falling asleep, level 2",
    }  # fmt: skip
    kinds = [kind for kind in titles if kind in seconds]
    drawn, (axes,) = canvas(f"How long until a model answers? ({figures['size']} models)", rows=len(kinds))
    medians = {"seconds": [seconds[kind]["median"] for kind in kinds]}
    ranges = {"seconds": [(seconds[kind]["low"], seconds[kind]["high"]) for kind in kinds]}
    colours = {"seconds": [OTHERS if kind == "vllm" else OURS for kind in kinds]}
    dots(axes, [titles[kind] for kind in kinds], medians, colours, ranges=ranges)
    axes.set_xlabel("seconds (log)" + (", a dry run on the CPU" if figures["dry_run"] else ""))
    return drawn
