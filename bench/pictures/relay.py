"""What stands between a client and an engine: the relay, the daemon beside real vLLM, other front doors."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from bench.pictures.canvas import COLOURS, LIGHT, OTHERS, OURS, bars, canvas, dots, legend

Figures = Mapping[str, Any]


def overhead(figures: Figures) -> Figure:
    """Time to the first token by each way: one client, and many streams."""
    titles = {"direct": "engine's own socket", "bare": "through a bare relay", "relay": "through arena-server"}
    colours = {"direct": OTHERS, "bare": COLOURS[5], "relay": OURS}
    kinds = {"1 client": figures["one_client"], "back to back": figures["back_to_back"]}
    kinds |= {f"{many['streams']} streams": many for many in figures["streams"]}
    ways = [way for way in titles if way in figures["one_client"]["first_token_ms"]]
    found = [
        (f"{title}, {quantile}", [of["first_token_ms"][way][quantile] for way in ways])
        for title, of in kinds.items()
        for quantile in of["first_token_ms"]["direct"]
    ]
    drawn, (axes,) = canvas("What does the relay add to the first token?", rows=len(found) * len(ways) * 0.65)
    series = {titles[way]: [values[n] for _, values in found] for n, way in enumerate(ways)}
    dots(axes, [group for group, _ in found], series, {titles[way]: [colours[way]] * len(found) for way in ways})
    legend(drawn, axes)
    axes.set_xlabel("milliseconds from request to first token (stand-in engine; log)")
    return drawn


def against_vllm(figures: Figures) -> Figure:
    """First token and tokens per second by number of clients, the three ways to the model."""
    titles = {"socket": "engine's own socket", "arena": "through arena-server", "vllm": "vLLM's own server"}
    clients = figures["clients"]
    drawn, (first, rate) = canvas(
        "Real vLLM: what changes with arena-server in front?", rows=len(clients) * 3, columns=2
    )
    groups = [f"{count} client{'' if count == '1' else 's'}" for count in clients]
    colours = (OTHERS, OURS, LIGHT)
    for axes, of in ((first, "first_token_ms_by_round"), (rate, "tokens_per_s_by_round")):
        found = {title: [at["ways"][way][of] for at in clients.values()] for way, title in titles.items()}
        medians = {title: [statistics.median(rounds) for rounds in each] for title, each in found.items()}
        ranges = {title: [(min(rounds), max(rounds)) for rounds in each] for title, each in found.items()}
        bars(axes, groups, medians, colours, ranges=ranges)
    first.set_xlabel("ms to first token: median of rounds (least to greatest)")
    rate.set_xlabel("tokens per second: the same")
    rate.set_yticks([])
    legend(drawn, first)
    return drawn


def peers(figures: Figures) -> Figure:
    """What each front door adds to the first token, and its CPU."""
    added = figures["one_client"]["added_ms"]
    names = sorted(added, key=lambda name: added[name]["median"])
    cpu = figures["streams"]["cpu_ms_per_1000_chunks"]
    drawn, (first, used) = canvas("What does a front door add?", rows=len(names) * 2, columns=2)
    quantiles = {quantile: [added[name][quantile] for name in names] for quantile in added[names[0]]}
    shades = {quantile: [OURS if name == "arena-server" else OTHERS for name in names] for quantile in quantiles}
    dots(first, names, quantiles, shades)
    legend(drawn, first)
    first.set_xlabel("milliseconds added to the first token, 1 client (log)")
    dots(used, names, {"cpu": [cpu[name] for name in names]}, {"cpu": shades["median"]})
    used.set_xlabel("CPU milliseconds per 1,000 chunks (log)")
    used.set_yticks([])
    return drawn


def gpu_throughput(figures: Figures) -> Figure:
    """Tokens per second of each way on a GPU."""
    rates = figures["tokens_per_s"]
    drawn, (axes,) = canvas(
        f"How many tokens come through on a GPU? ({figures['streams']} streams)", rows=len(rates) * 1.2
    )
    ranges = {"rate": [(rate["low"], rate["high"]) for rate in rates.values()]}
    bars(axes, list(rates), {"rate": [rate["median"] for rate in rates.values()]}, (OTHERS,), ranges=ranges)
    axes.patches[list(rates).index("arena-server")].set_facecolor(OURS)
    axes.set_xlabel("tokens per second" + (", a dry run on the CPU" if figures["dry_run"] else ""))
    return drawn
