"""Waits until a stopped engine's memory is back, as the device itself sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from arena_server.gpu.probe import MemoryProbe, ProbeError

logger = logging.getLogger(__name__)

POLL_S = 0.05
LIMIT_S = 10.0
# Other processes' use may have grown a little meanwhile: so much may be missing, or this part of what was taken.
SLACK_BYTES = 256 << 20
SLACK = 0.1


class MemoryReturn:
    """Remembers what each engine took from its devices, and waits for that after its end.

    The driver gives memory back some time (0.5 to 1.5 s is common) after the process is gone; the next engine measures
    free memory when it starts, and would size its KV cache wrongly or refuse to start. Only one engine at a time is in
    transition on a device, so a difference there is that engine's. What is in use is noted when transitions end, not
    when a stop begins: the memory of an engine that died may be back before anybody looks.
    """

    def __init__(self, probe: MemoryProbe) -> None:
        self._probe = probe
        self._settled: dict[int, int] = {}  # bytes in use by device, after its last transition
        self._taken: dict[str, Mapping[int, int]] = {}

    def settle(self, devices: Iterable[int]) -> None:
        """Note what is in use on devices where nothing is under way."""
        for device in devices:
            if (used := self._used(device)) is not None:
                self._settled[device] = used

    def loaded(self, model: str, devices: Iterable[int]) -> None:
        """Note what the model took, which was loaded just now."""
        before = dict(self._settled)
        self.settle(devices)
        self._taken[model] = {d: self._settled[d] - before[d] for d in devices if d in before}

    async def returned(self, model: str, devices: Iterable[int]) -> bool:
        """Wait until what the model took (or a load of it that failed) is back.

        False if it is not back within 10 s. Host RAM is back when the process is gone.
        """
        taken = self._taken.pop(model, {})
        limits = {d: self._limit(self._settled[d], taken.get(d, 0)) for d in devices if d in self._settled}
        back = not self._probe.gpu or await self._falls_to(limits)
        if not back:
            in_use = {d: self._used(d) for d in limits}
            logger.warning("%s ended %g s ago and its memory is not back; in use by device: %s", model, LIMIT_S, in_use)
        self.settle(limits)
        return back

    @staticmethod
    def _limit(settled: int, taken: int) -> int:
        return settled - taken + max(SLACK_BYTES, int(SLACK * taken))

    async def _falls_to(self, limits: Mapping[int, int]) -> bool:
        for _ in range(int(LIMIT_S / POLL_S)):
            used = {d: self._used(d) for d in limits}
            if all(u is None or u <= limits[d] for d, u in used.items()):
                return True
            await asyncio.sleep(POLL_S)
        return False

    def _used(self, device: int) -> int | None:
        try:
            return self._probe.used_bytes(device)
        except ProbeError as e:
            logger.warning("Device %d does not say what is in use: %s", device, e)
            return None
