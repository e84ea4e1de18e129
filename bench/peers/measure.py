"""Front doors against going to the engine directly, all in turn, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.client import Demand, Load, Target, first_token_times, many_streams
from bench.peers.door import Door
from bench.peers.engine import DIRECT
from bench.processes import BenchError
from bench.report import Spread, percentile, spread

BLOCK_REQUESTS = 20


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """One client's milliseconds to the first token: for each way to the engine, block by block."""

    blocks: dict[str, list[list[float]]]

    def together(self, name: str) -> list[float]:
        """Of all blocks."""
        return [ms for block in self.blocks[name] for ms in block]

    def added_ms(self, name: str) -> dict[str, float]:
        """What this way adds to the direct one: in the median, and at the 95th percentile."""
        through, direct = self.together(name), self.together(DIRECT)
        return {
            "median": spread(through).median - spread(direct).median,
            "p95": percentile(through, 95) - percentile(direct, 95),
        }

    def added_ms_by_block(self, name: str) -> Spread:
        """Differences of the blocks' medians."""
        pairs = zip(self.blocks[DIRECT], self.blocks[name], strict=True)
        return spread([spread(through).median - spread(direct).median for direct, through in pairs])

    def figures(self) -> dict[str, Any]:
        """For the report."""
        doors = [name for name in self.blocks if name != DIRECT]
        return {
            "requests": len(self.together(DIRECT)),
            "first_token_ms": {
                name: {"median": spread(ms).median, "p95": percentile(ms, 95)}
                for name, ms in ((name, self.together(name)) for name in self.blocks)
            },
            "added_ms": {name: self.added_ms(name) for name in doors},
            "added_ms_by_block": {name: self.added_ms_by_block(name) for name in doors},
        }


async def first_tokens(direct: Target, doors: Sequence[Door], requests: int, tokens: int) -> FirstTokens:
    """One client, answers of so many tokens one after the other; `requests` of each target."""
    targets = [direct, *(door.target for door in doors)]
    blocks: dict[str, list[list[float]]] = {target.name: [] for target in targets}
    for done in range(0, requests, BLOCK_REQUESTS):
        size = min(BLOCK_REQUESTS, requests - done)
        for target in targets:
            blocks[target.name].append([s * 1000 for s in await first_token_times(target, size, tokens)])
    return FirstTokens(blocks)


@dataclass(frozen=True, slots=True)
class Streams:
    """What many streams got, for each way to the engine, block by block."""

    loads: dict[str, list[Load]]

    def ratios(self, name: str) -> list[float]:
        """Tokens per second through it as a share of the direct ones, block by block."""
        pairs = zip(self.loads[DIRECT], self.loads[name], strict=True)
        return [through.tokens_per_s / direct.tokens_per_s for direct, through in pairs]

    def first_token_ms(self, name: str) -> dict[str, float] | None:
        """Milliseconds to the first token of all requests in the measured time; None if there were none."""
        ms = [s * 1000 for load in self.loads[name] for s in load.first_token_s]
        return {"p50": percentile(ms, 50), "p99": percentile(ms, 99)} if ms else None

    def added_ms(self, name: str) -> dict[str, float] | None:
        """What this way adds to the direct one; None if one of them came to no request (overloaded, or too short)."""
        through, direct = self.first_token_ms(name), self.first_token_ms(DIRECT)
        return {q: through[q] - direct[q] for q in through} if through and direct else None

    def cpu_ms_per_1000_chunks(self, name: str) -> float:
        """CPU of the front door's processes, in milliseconds. Raises BenchError if nothing came through it."""
        loads = self.loads[name]
        if not (tokens := sum(load.tokens for load in loads)):
            raise BenchError(f"nothing came through {name} in the measured time")
        return sum(load.cpu_s for load in loads) * 1e6 / tokens

    def figures(self) -> dict[str, Any]:
        """For the report."""
        doors = [name for name in self.loads if name != DIRECT]
        return {
            "requests": {name: sum(len(load.answers) for load in loads) for name, loads in self.loads.items()},
            "tokens_per_s": {name: spread([x.tokens_per_s for x in loads]) for name, loads in self.loads.items()},
            "ratio_by_block": {name: spread(self.ratios(name)) for name in doors},
            "first_token_ms": {name: self.first_token_ms(name) for name in self.loads},
            "added_ms": {name: self.added_ms(name) for name in doors},
            "cpu_ms_per_1000_chunks": {name: self.cpu_ms_per_1000_chunks(name) for name in doors},
        }


async def many(direct: Target, doors: Sequence[Door], demand: Demand, blocks: int) -> Streams:
    """Many streams at once, so many blocks of each target."""
    ways = [(direct, lambda: 0.0), *((door.target, door.cpu_s) for door in doors)]
    loads: dict[str, list[Load]] = {target.name: [] for target, _ in ways}
    for _ in range(blocks):
        for target, cpu_s in ways:
            loads[target.name].append(await many_streams(target, demand, cpu_s))
    return Streams(loads)
