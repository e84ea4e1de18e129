"""A device engines run on, as the memory probe reports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One GPU, or the host's memory where there is no GPU.

    `index` is the number used in a model's `devices`; `total_bytes` all of its memory, free or not.
    """

    index: int
    name: str
    total_bytes: int
