"""`/admin/events`: what happens, in order, to everybody who looks; and nobody who looks holds anything up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from arena_server.api import admin
from arena_server.console.events import messages
from arena_server.console.picture import Decision, QueueChange, Transition
from arena_server.console.shape import read
from arena_server.pool import journal
from arena_server.pool.residency import Residency
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import turns, until
from tests.support.leases import ask, use, waits
from tests.support.logs import logged
from tests.support.raw_client import Cut, RawClient, connected, once

KINDS: dict[str, type[Transition] | type[Decision] | type[QueueChange]] = {
    "transition": Transition,
    "decision": Decision,
    "queue": QueueChange,
}
Event = tuple[str, dict[str, Any]]


class Watcher:
    """A client of the stream."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self._lines = b""

    async def next(self) -> Event | None:
        """The next event, checked as the console does; None at the end of the stream."""
        while True:
            head, mark, rest = self._lines.partition(b"\r\n\r\n")
            if not mark:
                chunk = await self.client.chunk()
                if not chunk:
                    assert not self._lines
                    return None
                self._lines += chunk
                continue
            self._lines = rest
            for kind, data in messages([*head.decode().split("\r\n"), ""]):
                body = json.loads(data)
                read(KINDS[kind], body)
                return kind, body

    async def all(self) -> list[Event]:
        """All that come until the end."""
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found

    async def until_awake(self, name: str) -> list[Event]:
        """All that come until that model is awake and nobody waits for it."""
        found: list[Event] = []
        while not found or found[-1] != ("queue", {**found[-1][1], "queue": []}):
            event = await self.next()
            assert event is not None
            found.append(event)
        assert any(e.get("model") == name and e.get("to") == "awake" for _, e in found)
        return found


@contextlib.asynccontextmanager
async def watching(
    daemon: FakeDaemon, receive_buffer: int | None = None, token: str | None = None
) -> AsyncIterator[Watcher]:
    async with connected(daemon.port, receive_buffer) as client:
        shown = [] if token is None else [("Authorization", f"Bearer {token}")]
        client.request("GET", "/admin/events", headers=shown)
        status, headers = await client.head()
        assert status == 200
        assert dict(headers)["content-type"].startswith("text/event-stream")
        yield Watcher(client)


@pytest.fixture
async def daemon(caplog: pytest.LogCaptureFixture) -> AsyncIterator[FakeDaemon]:
    async with running_daemon() as running:
        yield running
    assert [r.getMessage() for r in logged(caplog) if r.levelno > logging.WARNING] == []


def brief(events: list[Event]) -> list[tuple[Any, ...]]:
    short: dict[str, Callable[[dict[str, Any]], tuple[Any, ...]]] = {
        "transition": lambda e: (e["model"], e["was"], e["to"]),
        "decision": lambda e: (e["what"], e["model"]),
        "queue": lambda e: ("queue", *(w["models"] for w in e["queue"])),
    }
    return [short[kind](e) for kind, e in events]


async def test_a_load_is_told_in_the_order_of_its_steps(daemon: FakeDaemon) -> None:
    async with watching(daemon) as watcher:
        await use(daemon, "alpha")
        found = await watcher.until_awake("alpha")
    assert brief(found) == [
        ("alpha", "cold", "loading"),
        ("load", "alpha"),
        ("queue", ["alpha"]),
        ("alpha", "loading", "awake"),
        ("queue",),
    ]
    numbers = [e["seq"] for _, e in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_a_swap_is_told_in_the_order_of_its_steps(daemon: FakeDaemon) -> None:
    for name in ("alpha", "beta"):
        await use(daemon, name)
    async with watching(daemon) as watcher:
        await use(daemon, "org/gamma")
        found = brief(await watcher.until_awake("org/gamma"))
    assert found == [
        ("drain", "alpha"),
        ("alpha", "awake", "stopping"),
        ("stop", "alpha"),
        ("queue", ["org/gamma"]),
        ("alpha", "stopping", "cold"),
        ("org/gamma", "cold", "loading"),
        ("load", "org/gamma"),
        ("org/gamma", "loading", "awake"),
        ("queue",),
    ]


async def test_the_queue_is_told_as_the_pool_shows_it(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].load_gate.hold()
    async with watching(daemon) as watcher:
        first = ask(daemon, "alpha")
        await waits(daemon, "alpha")
        second = ask(daemon, "alpha", "beta")
        await waits(daemon, "beta")
        queues: list[dict[str, Any]] = []
        while len(queues) < 2:
            event = await watcher.next()
            assert event is not None
            queues += [event[1]] if event[0] == "queue" else []
        assert [w["models"] for w in queues[1]["queue"]] == [["alpha"], ["alpha", "beta"]]
        assert [w["place"] for w in queues[1]["queue"]] == [1, 2]
        assert queues[1]["queue"][0]["phase"] == "loading alpha"
        second.cancel()
        while (event := await watcher.next()) is not None and event[0] != "queue":
            pass
        assert event is not None
        assert [w["models"] for w in event[1]["queue"]] == [["alpha"]]
        daemon.engines["alpha"].load_gate.release()
        (await first).release()


async def test_all_watchers_are_told_the_same(daemon: FakeDaemon) -> None:
    async with watching(daemon) as one, watching(daemon) as two:
        await use(daemon, "alpha")
        first = await one.until_awake("alpha")
        async with watching(daemon) as late:
            assert await two.until_awake("alpha") == first
            await use(daemon, "beta")
            assert await late.until_awake("beta") == await one.until_awake("beta")


async def test_the_ids_are_those_of_the_decisions(daemon: FakeDaemon) -> None:
    async with watching(daemon) as watcher:
        await use(daemon, "alpha")
        found = [e for kind, e in await watcher.until_awake("alpha") if kind == "decision"]
    assert found == [entry.body() for entry in daemon.pool.journal.decisions]


async def test_a_watcher_that_leaves_is_forgotten(daemon: FakeDaemon) -> None:
    async with watching(daemon) as stays:
        async with watching(daemon) as leaves:
            await until(lambda: len(daemon.pool.journal._watchers) == 2, "both to watch")
            leaves.client.leave()
            await until(lambda: len(daemon.pool.journal._watchers) == 1, "the one to be forgotten")
        await use(daemon, "alpha")
        await stays.until_awake("alpha")
        stays.client.leave()
        await until(lambda: not daemon.pool.journal.watched, "the other to be forgotten")


async def test_a_watcher_that_does_not_read_is_cut_off_and_the_others_are_not(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MOST_UNREAD", 50)
    entries, watchers = 0, daemon.pool.journal._watchers
    async with watching(daemon, receive_buffer=4096) as slow, watching(daemon) as quick:
        mailboxes = set(watchers)
        assert len(mailboxes) == 2
        reading = asyncio.create_task(quick.all())
        while len(watchers) == 2:
            daemon.pool.journal.decided("load", "alpha", "x" * (64 << 10))
            entries += 1
            assert entries < 1000, "the slow one must have been cut off"
            await turns(3)
            await until(lambda: any(m.empty() for m in mailboxes), "the quick one to read")
        (cut,) = mailboxes - watchers
        size = cut.qsize()
        assert size <= 52
        for _ in range(100):
            daemon.pool.journal.decided("load", "alpha", "more")
            entries += 1
            await turns(3)
        assert cut.qsize() == size, "nothing more is kept for it"
        # It gets what was kept, without a gap, and then the end.
        found = [e["seq"] for _, e in await slow.all()]
        assert found == list(range(1, len(found) + 1))
        assert len(found) <= entries - 100
        daemon.pool.journal.close()
        assert [e["seq"] for _, e in await reading] == list(range(1, entries + 1))


async def test_a_silent_stream_is_kept_alive(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "KEEP_ALIVE_S", 0.02)
    async with watching(daemon) as watcher:
        assert (await watcher.client.chunk()).startswith(b": ping")


@pytest.mark.parametrize("reads", [True, False])
async def test_the_daemons_end_ends_the_stream_at_once(reads: bool) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as clients:
        async with running_daemon() as daemon:
            watchers = [await clients.enter_async_context(watching(daemon)) for _ in range(3)]
            await use(daemon, "alpha")
            reading = [asyncio.create_task(w.all()) for w in watchers] if reads else []
            began = loop.time()
        assert loop.time() - began < 3, "the grace is 5 s"
        for found in await asyncio.gather(*reading):
            assert ("load", "alpha") in brief(found)
        if not reads:
            with contextlib.suppress(Cut):
                assert ("load", "alpha") in brief(await watchers[0].all())


async def test_who_comes_while_the_daemon_ends_is_sent_away(daemon: FakeDaemon) -> None:
    daemon.pool.refuse_new()
    async with watching(daemon) as watcher:
        assert await watcher.all() == []


async def test_what_goes_on_until_the_end_is_told_to_the_end(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].load_gate.hold()
    async with watching(daemon) as watcher:
        waiting = ask(daemon, "alpha")
        await until(lambda: daemon.view("alpha").residency is Residency.LOADING, "the load")
        daemon.pool.refuse_new()
        found = await watcher.all()
        assert brief(found)[-2:] == [("refuse", None), ("queue",)]
        assert await asyncio.wait([waiting])


async def test_who_watches_is_sent_away_when_the_key_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "LOOK_AT_KEY_EVERY_S", 0.01)

    async def asked(daemon: FakeDaemon, method: str, path: str, body: Any, token: str | None) -> dict[str, Any]:
        headers = [] if token is None else [("Authorization", f"Bearer {token}")]
        answer = await once(daemon.port, method, path, json.dumps(body).encode() if body else b"", headers)
        assert answer.status in (200, 201)
        told: dict[str, Any] = answer.json()
        return told

    async with running_daemon() as daemon:
        # The first key: who had none is sent away.
        async with watching(daemon) as watcher:
            boss = await asked(daemon, "POST", "/admin/keys", {"name": "boss", "scopes": ["admin"]}, None)
            assert await watcher.next() is None
        other = await asked(daemon, "POST", "/admin/keys", {"name": "other", "scopes": ["admin"]}, boss["key"])
        async with watching(daemon, token=boss["key"]) as kept, watching(daemon, token=other["key"]) as watcher:
            await asked(daemon, "DELETE", f"/admin/keys/{other['id']}", None, boss["key"])
            assert await watcher.next() is None
            await use(daemon, "alpha")
            await kept.until_awake("alpha")
