"""Notices an engine that answers /health but works on nothing: requests wait, and no token comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from arena_server.clock import Clock
from arena_server.engine.client import EngineClient, EngineLost, EngineUnreachable
from arena_server.engine.stillness import Stillness

LONGEST_INTERVAL_S = 5.0

# What changes while vLLM works (0.24 to 0.33; the fourth is the older name of the third).
_METRICS = frozenset(
    {
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "vllm:num_requests_running",
        "vllm:request_success_total",
    }
)

Signature = frozenset[tuple[str, float]]


def signature(metrics: str) -> Signature:
    """The sums of those metrics of vLLM that change while it works; empty if it reports none (disable_log_stats)."""
    sums: dict[str, float] = {}
    for name, value in _samples(metrics):
        if name in _METRICS:
            sums[name] = sums.get(name, 0.0) + value
    return frozenset(sums.items())


def _samples(metrics: str) -> Iterator[tuple[str, float]]:
    for line in metrics.splitlines():
        if line.startswith("vllm:"):
            series, _, value = line.rpartition(" ")
            with contextlib.suppress(ValueError):
                yield series.partition("{")[0], float(value)


class ProgressStall:
    """Watches one loaded engine; asks it nothing while no request waits for it."""

    def __init__(self, client: EngineClient, own: EngineClient, limit_s: float, clock: Clock) -> None:
        """`client` is the one that requests go through, `own` another for the same engine."""
        self._client = client
        self._own = own
        self._limit_s = limit_s
        self._interval_s = min(limit_s / 10, LONGEST_INTERVAL_S)
        # From one look to the next: the interval, and the metrics' timeout, which is as long.
        self._stillness = Stillness(clock, 2 * self._interval_s)
        self._pieces = 0
        self._signature: Signature | None = None

    async def happened(self) -> str:
        """Wait until the engine has stalled; return that as the reason of its death."""
        while True:
            await self._client.in_use()
            self._stillness.moved()
            while self._client.is_in_use:
                await asyncio.sleep(self._interval_s)
                if reason := await self.look():
                    return reason

    async def look(self) -> str | None:
        """Look once; the reason, if it has stalled by now."""
        awaited = self._client.awaited
        if not awaited:
            self._stillness.moved()
            return None
        signature = await self._read_signature()
        # One that reports nothing cannot be told from one that has stalled: its requests are left waiting.
        tells_nothing = signature is not None and not signature
        # One that does not report at all moves only if bytes come.
        changed = signature is not None and signature != self._signature
        if tells_nothing or changed or self._client.pieces != self._pieces:
            self._pieces = self._client.pieces
            self._signature = signature if signature is not None else self._signature
            self._stillness.moved()
        if self._stillness.look() < self._limit_s:
            return None
        ran = "1 request" if awaited == 1 else f"{awaited} requests"
        return f"no token for {self._limit_s:g} s while {ran} ran (pool.progress_stall_s)"

    async def _read_signature(self) -> Signature | None:
        """None if the engine does not answer."""
        try:
            async with asyncio.timeout(self._interval_s), self._own.get("/metrics") as answer:
                body = await answer.read()
                return signature(body.decode(errors="replace")) if answer.status == 200 else None
        except (EngineUnreachable, EngineLost, TimeoutError):
            return None
