"""The page that Prometheus reads."""

from __future__ import annotations

import asyncio
import platform
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from prometheus_client import Info, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from arena_server import __version__
from arena_server.clock import Clock
from arena_server.gpu.probe import MemoryProbe
from arena_server.metrics.device_state import DeviceState
from arena_server.metrics.engine_page import merged
from arena_server.metrics.exposition import CREATED, openmetrics_lines, text_lines
from arena_server.metrics.pool_state import PoolState
from arena_server.metrics.tallies import Tallies
from arena_server.pool.pool import Pool

OPENMETRICS = "application/openmetrics-text"
OPENMETRICS_END = b"# EOF\n"
ABOUT = re.compile(rb"^# .*\n", re.MULTILINE)  # a family's HELP and TYPE
# Samples that are encoded at a time: a millisecond, where a histogram of many models would take ten.
PIECE = 50

T = TypeVar("T")
Encoder = Callable[[Collector], bytes]


class Metrics:
    """Joins what was counted, what is, and what the engines say of themselves.

    It is made on the event loop, which carries the streams: so in small pieces, with a turn of the loop after each.
    """

    def __init__(
        self,
        tallies: Tallies,
        pool: Pool,
        probe: MemoryProbe,
        clock: Clock,
        vllm_version: str,
        disks: Mapping[str, Path],
    ) -> None:
        """`disks` are directories that fill, by what they are for."""
        self._tallies = tallies
        self._pool = pool
        self._devices = DeviceState(probe, clock, disks)
        registry = tallies.registry
        registry.register(PoolState(pool.summary))
        registry.register(self._devices)
        ProcessCollector(registry=registry)
        build = Info("arena_build", "This daemon.", registry=registry)
        build.info({"version": __version__, "vllm": vllm_version, "python": platform.python_version()})

    async def page(self, accept: str = "") -> tuple[bytes, str]:
        """The page in the format that an Accept header asks for, and its content type."""
        self._tallies.know(self._pool.names)
        async with asyncio.TaskGroup() as asking:
            pages = asking.create_task(self._tallies.engines.pages(lambda: self._pool.awake))
            asking.create_task(self._devices.refresh())
        encode, content_type = choose_encoder(accept)
        openmetrics = content_type.startswith(OPENMETRICS)
        families = merged(pages.result())
        engines = openmetrics_lines(families) if openmetrics else text_lines(families)
        out = [piece async for piece in _bit_by_bit(self._own(encode))]
        out += [piece.encode() async for piece in _bit_by_bit(engines)]
        return b"".join([*out, OPENMETRICS_END] if openmetrics else out), content_type

    def _own(self, encode: Encoder) -> Iterator[bytes]:
        """Our own families, those that have samples."""
        for family in self._tallies.registry.collect():
            # When each series began: as many lines again, of use to nobody beside process_start_time_seconds.
            samples = [s for s in family.samples if not s.name.endswith(CREATED)]
            for start in range(0, len(samples), PIECE):
                family.samples = samples[start : start + PIECE]
                piece = encode(_One(family)).removesuffix(OPENMETRICS_END)
                yield ABOUT.sub(b"", piece) if start else piece


class _One(Collector):
    """One family, for an encoder that takes a registry."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        """The family."""
        yield self._family


async def _bit_by_bit(pieces: Iterator[T]) -> AsyncIterator[T]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)
