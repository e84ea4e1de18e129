"""Plays a block of an evening against one of the daemons, as its clients see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.evening.asking import Answered, Refused
from bench.evening.contenders import Contender
from bench.evening.trace import Battle
from bench.report import percentile


@dataclass(slots=True)
class Evening:
    """What one side made of it, by block: the battles that were answered, in the order of the trace."""

    blocks: list[list[Answered]] = field(default_factory=list)
    loads: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    @property
    def waits_s(self) -> list[float]:
        """Until both sides of each battle had begun."""
        return [answered.wait_s for block in self.blocks for answered in block]

    @property
    def p50_s(self) -> float:
        """Of the waits; there must be some."""
        return percentile(self.waits_s, 50)

    @property
    def p95_s(self) -> float:
        """Of the waits; there must be some."""
        return percentile(self.waits_s, 95)

    @property
    def apart_p95_s(self) -> float:
        """Of how long one side of a battle had begun before the other; there must be some."""
        return percentile([answered.apart_s for block in self.blocks for answered in block], 95)

    def figures(self) -> dict[str, object]:
        """For the report: raw waits by block, and what is made of them if there are any."""
        made = (
            {}
            if not self.waits_s
            else {
                "wait_p50_s": self.p50_s,
                "wait_p95_s": self.p95_s,
                "wait_longest_s": max(self.waits_s),
                "apart_p95_s": self.apart_p95_s,
            }
        )
        return made | {
            "wait_s": [[answered.wait_s for answered in block] for block in self.blocks],
            "apart_s": [[answered.apart_s for answered in block] for block in self.blocks],
            "loads": self.loads,
            "seconds": self.seconds,
            "refusals": self.refusals,
        }


async def play(side: Contender, block: Sequence[Battle], load_s: float, evening: Evening) -> None:
    """Ask for each battle at its time, from a state with nothing loaded; `load_s` is what the times count in."""
    await side.stop_all()
    before = await side.loads()
    began = time.perf_counter()
    tasks = []
    async with asyncio.TaskGroup() as group:
        for battle in block:
            await asyncio.sleep(began + battle.at_loads * load_s - time.perf_counter())
            tasks.append(group.create_task(_answer(side, battle, evening.refusals)))
    evening.seconds.append(time.perf_counter() - began)
    evening.blocks.append([answered for task in tasks if (answered := task.result()) is not None])
    evening.loads.append(await side.loads() - before)


async def _answer(side: Contender, battle: Battle, refusals: list[str]) -> Answered | None:
    try:
        return await side.battle(battle)
    except Refused as e:
        refusals.append(f"battle {battle.number}: {e}")
        return None
