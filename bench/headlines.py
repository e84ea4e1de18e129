"""The main figures of each benchmark in a few words, for the table at the top of docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

Figures = Mapping[str, Any]


def overhead(figures: Figures) -> str:
    """What the relay adds, and the share of tokens that come through."""
    added_ms = figures["one_client"]["added_ms"]["median"]
    p99 = ", ".join(f"{many['added_ms']['p99']:+.1f} ms at {many['streams']}" for many in figures["streams"])
    ratios = ", ".join(f"{many['ratio']:.3f} at {many['streams']}" for many in figures["streams"])
    return f"first token {added_ms:+.2f} ms at 1 client, p99 {p99} streams; shares of the tokens/s: {ratios}"


def against_vllm(figures: Figures) -> str:
    """The two that the goal is about."""
    clients = list(figures["clients"])
    few, many = clients[0], clients[-1]
    return (
        f"first token {figures['added_first_token_ms']:+.2f} ms at {few} client{'' if few == '1' else 's'}; "
        f"{figures['tokens_per_s_ratio']:.3f} of the tokens/s at {many}"
    )


def peers(figures: Figures) -> str:
    """What each adds."""
    added = {name: of["median"] for name, of in figures["one_client"]["added_ms"].items()}
    each = ", ".join(f"{name} {ms:+.2f} ms" for name, ms in sorted(added.items(), key=lambda item: item[1]))
    return f"first token: {each}"


def cold_start(figures: Figures) -> str:
    """How many times as fast."""
    ours, theirs = (figures[side]["fixed_s"]["median"] for side in ("arena", "vllm"))
    return f"with the zygote up, fixed cost {ours:.2f} s against {theirs:.2f} s: {figures['ratio']:.1f} times smaller"


def cost(figures: Figures) -> str:
    """Those that the goal is about."""
    rest = figures["idle"]
    return (
        f"up in {figures['start']['up_s']['daemon']['median']:.2f} s, "
        f"idle {rest['share_of_a_core']['daemon']['median']:.2%} of a core, "
        f"{rest['memory_bytes']['daemon']['resident'] / 1e6:.0f} MB resident"
    )


def gpu_throughput(figures: Figures) -> str:
    """Shares of the other ways' tokens per second."""
    socket, vllm = (figures[f"ratio_to_{other}"]["median"] for other in ("socket", "vllm"))
    return f"{socket:.3f} of the engine's socket's tokens/s, {vllm:.3f} of those of vLLM's own server"


def evening(figures: Figures) -> str:
    """Waits and loads, as shares of the other side's."""
    ratios = figures["ratios"]
    return ", ".join(
        f"{title} {ratios[kind]:.2f} of plain LRU's"
        for kind, title in (("wait_p50", "p50 wait"), ("wait_p95", "p95 wait"), ("loads", "loads"))
        if kind in ratios
    )


def while_loading(figures: Figures) -> str:
    """How much longer the longest gap gets."""
    through, past = (figures["paced"][way]["ratio"] for way in ("through", "past"))
    return f"longest gap {through:.2f} times that without a load ({past:.2f} past the daemon)"


def leaderboard(figures: Figures) -> str:
    """How long it takes, and the gap it makes."""
    own = figures["leaderboard_with_streams_s"]["median"]
    return f"{own:.2f} s with {figures['streams']} streams; longest gap {figures['longest_gap_added_ms']:+.0f} ms"


def policies(figures: Figures) -> str:
    """The core's p95 to plain LRU's, over all workloads."""
    ratios = []
    for table in figures["workloads"]:
        p95_s = {row["policy"]: row["p95_s"] for row in table["rows"]}
        ratios.append(p95_s["core"] / p95_s["lru"])
    return (
        f"p95 wait {min(ratios):.2f} to {max(ratios):.2f} of plain LRU's over {len(ratios)} workloads "
        f"(median {statistics.median(ratios):.2f})"
    )


def gpu_swap(figures: Figures) -> str:
    """How much faster waking is than vLLM's own cold load."""
    wake_s, ratio = figures["seconds"]["wake_1"]["median"], figures["ratios"]["wake_1"]
    return f"wake {wake_s:.2f} s, {ratio:.1f} times as fast as a cold load by vLLM's server"


TOLD: tuple[Callable[[Figures], str], ...] = (
    overhead, against_vllm, peers, cold_start, evening, while_loading, cost, leaderboard, policies, gpu_swap,
    gpu_throughput,
)  # fmt: skip
HEADLINES = {tell.__name__: tell for tell in TOLD}
