"""Waits until a stopped engine's memory is back, as the device itself sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from arena_server.gpu.probe import MemoryProbe

logger = logging.getLogger(__name__)

POLL_S = 0.05
LIMIT_S = 10.0
# Of what an engine took, this much has to be back: other processes' use may have grown a little meanwhile.
RETURNED = 0.9


class MemoryReturn:
    """Remembers what each engine took from its devices, and waits for that after its end.

    The driver gives memory back some time (0.5 to 1.5 s is common) after the process is gone; the next engine measures
    free memory when it starts, and would size its KV cache wrongly or refuse to start. Only one
    engine at a time is in transition on a device, so a difference there is that engine's.
    """

    def __init__(self, probe: MemoryProbe) -> None:
        self._probe = probe
        self._before: dict[str, Mapping[int, int]] = {}
        self._taken: dict[str, Mapping[int, int]] = {}

    def before_load(self, model: str, devices: Iterable[int]) -> None:
        """Note what is in use before the model loads."""
        self._before[model] = {d: self._probe.used_bytes(d) for d in devices}

    def after_load(self, model: str) -> None:
        """Note what the model took."""
        self._taken[model] = {d: self._probe.used_bytes(d) - used for d, used in self._before[model].items()}

    async def returned(self, model: str, used_at_stop: Mapping[int, int]) -> bool:
        """Wait until what the model took is back; `used_at_stop` is bytes in use by device before it ended.

        False if it is not back within 10 s. Host RAM is back when the process is gone.
        """
        taken = self._taken.pop(model, {})
        if not self._probe.gpu:
            return True
        for _ in range(int(LIMIT_S / POLL_S)):
            if all(self._probe.used_bytes(d) <= used_at_stop[d] - RETURNED * taken[d] for d in taken):
                return True
            await asyncio.sleep(POLL_S)
        held = {d: self._probe.used_bytes(d) for d in taken}
        logger.warning("%s ended %g s ago and its memory is not back; in use by device: %s", model, LIMIT_S, held)
        return False

    def used(self, devices: Iterable[int]) -> Mapping[int, int]:
        """Bytes in use now, by device."""
        return {d: self._probe.used_bytes(d) for d in devices}
