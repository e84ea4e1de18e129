"""Which benchmarks there are, and what each of them needs that not every machine has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Need(Enum):
    """What a machine may lack, or its user must ask for."""

    GPU = "gpu"
    PEERS = "peers"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A program `python -m bench.NAME` that ends with a report."""

    name: str
    what: str  # a heading: what it measures
    need: Need | None = None


# In the order in which the suite runs them and the page shows them.
CATALOGUE = (
    Benchmark("overhead", "The relay against the engine's own socket"),
    Benchmark("against_vllm", "The daemon against real vLLM: its socket and its own server"),
    Benchmark("peers", "Other front doors to the same engine", Need.PEERS),
    Benchmark("cold_start", "A cold start against vLLM's own server"),
    Benchmark("evening", "An evening of battles against a plain-LRU daemon"),
    Benchmark("while_loading", "Streams while another model loads"),
    Benchmark("cost", "What the daemon itself costs"),
    Benchmark("leaderboard", "The leaderboard, and streams beside it"),
    Benchmark("policies", "The pool's decisions against the usual ones, in simulation"),
    Benchmark("gpu_swap", "Sleep, wake and swaps on a GPU", Need.GPU),
    Benchmark("gpu_throughput", "Throughput on a GPU against vLLM's own server", Need.GPU),
)


def chosen(names: Iterable[str]) -> list[Benchmark]:
    """Those of these names, or all if there are none. Raises KeyError with an unknown name."""
    by_name = {benchmark.name: benchmark for benchmark in CATALOGUE}
    return [by_name[name] for name in names] or list(CATALOGUE)
