"""Asks the awake engines for their own metrics."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

from arena_server.engine.base import Client, Engine
from arena_server.engine.client import EngineLost, EngineUnreachable
from arena_server.metrics.engine_page import EnginePage, NotMetrics, read_page
from arena_server.metrics.tokens import Tokens, counts_of

logger = logging.getLogger(__name__)

SCRAPE_S = 1.0
# An eviction waits for this; an engine that is well answers in some milliseconds.
LAST_LOOK_S = 0.5
# vLLM's page has 60 KB for each of its replicas.
MOST_BYTES = 8 << 20

# How asking an engine fails; RuntimeError: it has no client before its load and after its stop.
NO_ANSWER = (EngineUnreachable, EngineLost, NotMetrics, RuntimeError, TimeoutError)

Awake = Callable[[], Mapping[str, Engine]]


@dataclass(slots=True)
class _Asking:
    """One question under way, and how many scrapes wait for its answer."""

    task: asyncio.Task[EnginePage | None]
    waiting: int = 0


class Engines:
    """Each engine is asked by one at a time, so that nobody still asks one that falls asleep.

    Scrapes at the same time share an answer: one after the other, an engine that takes over half of SCRAPE_S would
    seem not to answer.
    """

    def __init__(self, registry: CollectorRegistry, tokens: Tokens) -> None:
        self._tokens = tokens
        self._failures = Counter(
            "arena_engine_scrape_failures",
            f"Awake engines whose own metrics were left out: no page that can be read within {SCRAPE_S:g} s.",
            ["model"],
            registry=registry,
        )
        self._silent: set[str] = set()  # models whose engines did not answer when they were last asked
        self._reading = asyncio.Lock()  # a page takes 2 ms: other work of the loop has a turn before the next
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._under_way: dict[Engine, _Asking] = {}

    def know(self, model: str) -> None:
        """Show the model from now on, with 0 failures if there were none."""
        self._failures.labels(model)

    async def pages(self, awake: Awake) -> list[EnginePage]:
        """The pages of those that answer in time, in the order of `awake`; the others count as failures."""
        async with asyncio.TaskGroup() as asking:
            # A remote server's page is not of this daemon's work alone, and its own Prometheus's to ask for.
            tasks = [asking.create_task(self._page(e, awake)) for e in awake().values() if not e.remote]
        return [page for task in tasks if (page := task.result()) is not None]

    async def last_look(self, engine: Engine) -> bool:
        """Read the tokens of an engine that is about to leave; returns whether it has answered, if it was asked."""
        if engine.remote:
            return True
        try:
            async with asyncio.timeout(LAST_LOOK_S), self._turns[engine.name]:
                await self._ask(engine)
            return True
        except NO_ANSWER as e:
            logger.info("%s leaves; what it counted last is not known: %s", engine.name, str(e) or "no answer in time")
        except Exception:  # an engine may say anything: what nobody thought of must not hold up an eviction
            logger.exception("%s leaves; what it counted last is not known", engine.name)
        return False

    async def _page(self, engine: Engine, awake: Awake) -> EnginePage | None:
        asking = self._under_way.get(engine)
        if asking is None:
            # Not in the context of this scrape's request: others wait for it, too.
            task = asyncio.get_running_loop().create_task(self._asked(engine, awake), context=Context())
            asking = self._under_way[engine] = _Asking(task)
        asking.waiting += 1
        try:
            return await asyncio.shield(asking.task)
        finally:
            asking.waiting -= 1
            if asking.waiting == 0:  # answered, or all have given up: none may join one that is called off
                self._under_way.pop(engine)
                asking.task.cancel()

    async def _asked(self, engine: Engine, awake: Awake) -> EnginePage | None:
        def still_awake() -> bool:
            return awake().get(engine.name) is engine

        try:
            async with asyncio.timeout(SCRAPE_S), self._turns[engine.name]:
                return await self._ask(engine) if still_awake() else None
        except NO_ANSWER as e:
            if still_awake():  # one that was stopped meanwhile is not to blame
                self._failed(engine.name, str(e) or f"none after {SCRAPE_S:g} s")
        except Exception as e:  # an engine may say anything: what nobody thought of must not fail the whole page
            self._failed(engine.name, f"{type(e).__name__}: {e}", e)
        return None

    def _failed(self, model: str, why: str, defect: Exception | None = None) -> None:
        """Count it; the first of a series is logged, as one for each scrape would bury the log."""
        self._failures.labels(model).inc()
        if model not in self._silent:
            logger.warning("%s is awake, but its own metrics are left out: %s", model, why, exc_info=defect)
        self._silent.add(model)

    async def _ask(self, engine: Engine) -> EnginePage:
        client = engine.client  # the same from its load to its stop
        body = await _body(client.apart())
        async with self._reading:
            page = read_page(body, engine.name)
            await asyncio.sleep(0)
        self._silent.discard(engine.name)
        self._tokens.read(engine.name, client, counts_of(page))
        return page


async def _body(client: Client) -> bytes:
    async with client.get("/metrics") as answer:
        if answer.status != 200:
            raise NotMetrics(f"status {answer.status}")
        body = bytearray()
        async for chunk in answer.chunks():
            body += chunk
            if len(body) > MOST_BYTES:
                raise NotMetrics(f"over {MOST_BYTES} bytes")
        return bytes(body)
