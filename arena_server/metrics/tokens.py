"""How many tokens each model has read and written, over all lives of its engines."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter

from arena_server.metrics.engine_page import EnginePage

# vLLM's counters, which begin at 0 with each engine.
COUNTERS = {"prompt": "vllm:prompt_tokens_total", "completion": "vllm:generation_tokens_total"}


def counts_of(page: EnginePage) -> dict[str, float]:
    """What an engine has counted in its life so far, by type; without what it does not report (disable_log_stats)."""
    found = {kind: page.sum(name) for kind, name in COUNTERS.items()}
    return {kind: n for kind, n in found.items() if n is not None}


class Tokens:
    """Sums what engines have counted: what has come since the last reading, from 0 in a new engine.

    A counter that went down is a new engine's, too. What an engine counted after its last reading is lost if it
    crashes; before it is put to sleep or stopped it is read once more.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._total = Counter(
            "arena_tokens",
            "Tokens that the model's engines counted (type: prompt or completion), over all of their lives. "
            "What an engine counted between its last reading and a crash is missing.",
            ["model", "type"],
            registry=registry,
        )
        self._last: dict[str, tuple[object, dict[str, float]]] = {}

    def know(self, model: str) -> None:
        """Show the model from now on, with 0 tokens if there were none."""
        for kind in COUNTERS:
            self._total.labels(model, kind)

    def read(self, model: str, life: object, counts: Mapping[str, float]) -> None:
        """An engine of the model has counted so many so far; `life` is the same object as long as that engine is."""
        last_life, last = self._last.get(model, (None, {}))
        before = last if last_life is life else {}
        now = dict(before)
        for kind, count in counts.items():
            if not 0 <= count < float("inf"):
                continue
            seen = before.get(kind, 0.0)
            self._total.labels(model, kind).inc(count - seen if count >= seen else count)
            now[kind] = count
        self._last[model] = (life, now)
