"""A scraped page, read with prometheus_client's own parsers, which are strict."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gate import LIMIT_S

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


@dataclass(frozen=True, slots=True)
class Scraped:
    """What Prometheus would have got."""

    text: str
    content_type: str
    families: dict[str, Metric]

    def value(self, name: str, /, **labels: str) -> float | None:
        """Of the sample with just these labels; None if there is none."""
        found = [s.value for f in self.families.values() for s in f.samples if s.name == name and s.labels == labels]
        assert len(found) <= 1, f"{name} {labels} stands there {len(found)} times"
        return found[0] if found else None

    def values(self, name: str, label: str) -> dict[str, float]:
        """Of all samples of the name, by one label."""
        return {s.labels[label]: s.value for f in self.families.values() for s in f.samples if s.name == name}

    def labels(self) -> dict[str, set[str]]:
        """The labels of each sample's name."""
        found: dict[str, set[str]] = {}
        for family in self.families.values():
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
        return found


async def scrape(url: str, accept: str = "") -> Scraped:
    """One scrape; fails on a page that is not well-formed."""
    async with (
        aiohttp.ClientSession(url) as client,
        client.get("/metrics", headers={"accept": accept} if accept else {}) as response,
    ):
        assert response.status == 200
        return read(await response.text(), response.headers["content-type"])


def read(text: str, content_type: str = "text/plain") -> Scraped:
    """A page that is here already."""
    families: Iterable[Metric]
    if content_type.startswith("application/openmetrics-text"):
        families = openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    else:
        families = text_string_to_metric_families(text)
        names = [line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE ")]
        assert len(names) == len(set(names)), "a family comes twice"
    by_name: dict[str, Metric] = {}
    for family in families:
        assert family.name not in by_name, f"{family.name} comes twice"
        by_name[family.name] = family
    return Scraped(text, content_type, by_name)


async def scrape_after(url: str, requests: int) -> Scraped:
    """A scrape that counts so many requests: a course ends a moment after the last byte of its answer has left."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            page = await scrape(url)
            counted = page.families.get("arena_requests")
            if counted and sum(s.value for s in counted.samples) >= requests:
                return page


async def chat(url: str, model: str, **more: Any) -> int:
    """One chat; returns the status once the answer is whole."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello there"}], **more}
    async with aiohttp.ClientSession(url) as client, client.post("/v1/chat/completions", json=body) as response:
        await response.read()
        return response.status
