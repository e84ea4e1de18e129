"""Looks at what others than this daemon's engines hold of the devices, and tells the core."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from arena_server.gpu.device_memory import DeviceMemory, Outside
from arena_server.pool import events
from arena_server.pool.core import PoolCore
from arena_server.pool.residency import IN_TRANSITION

logger = logging.getLogger(__name__)

EVERY_S = 2.0
# Smaller changes are not worth a new plan, nor a line in the log.
GRAIN_BYTES = 64 << 20


class Survey:
    """The last look at each device. Devices in transition are passed over: nobody could tell whose memory it is."""

    def __init__(
        self,
        memory: DeviceMemory,
        core: PoolCore,
        feed: Callable[[events.Event], None],
        reserve_bytes: Mapping[int, int],
    ) -> None:
        """`reserve_bytes` of each device are not in its budget: so much others may hold."""
        self._memory = memory
        self._core = core
        self._feed = feed
        self.reserve_bytes = reserve_bytes
        self.outside: dict[int, Outside] = {}

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def look(self, stopped: str | None = None) -> None:
        """Look once. `stopped` is a model whose stop just ended, though the core does not know of it yet."""
        moving = {
            device
            for model in self._core.models.values()
            if model.residency in IN_TRANSITION and model.name != stopped
            for device in model.spec.footprint
        }
        devices = [d for d in self._core.ledger.budget.device_bytes if d not in moving]
        self.outside.update(self._memory.outside(devices))
        over = {d: self._over(d) for d in self.outside}
        told = {d: n for d, n in over.items() if n > 0}
        if told != dict(self._core.ledger.outside):
            logger.info("Held by others on each device, beyond what is kept free for them: %s bytes", told or "no")
            self._feed(events.Outside(told))

    def _over(self, device: int) -> int:
        over = self.outside[device].bytes - self.reserve_bytes.get(device, 0)
        return max(0, -(-over // GRAIN_BYTES) * GRAIN_BYTES)
