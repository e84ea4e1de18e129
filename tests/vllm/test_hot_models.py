"""Models are added, changed and removed while streams of another run: none of them stalls."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import aiohttp
import pytest

from arena_server.demo.models import DemoModel
from tests.vllm.daemon import ENDLESS, Daemon, model_config
from tests.vllm.test_serving import LLAMA, MISTRAL, Stream, greedy

pytestmark = pytest.mark.alone

STREAMS = 4
# On a busy machine a process may get no processor for longer than any operation here takes.
ROUNDS = 7
MOST_STALL_S = 0.1
WINDOW_S = 0.5


@pytest.fixture(scope="module")
def daemon(daemon: Daemon, models: dict[str, DemoModel]) -> Iterator[Daemon]:
    with daemon.lent({LLAMA: model_config(models[LLAMA].path)}, pool={}) as running:
        yield running


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(daemon.url, timeout=aiohttp.ClientTimeout(total=150)) as session:
        yield session


async def order(client: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
    async with client.request(method, f"/admin/{path}", json=body) as response:
        assert response.status in (200, 201, 202), await response.text()
        return await response.json()


def longest_gap_s(streams: Sequence[Stream], since: float, until: float) -> float:
    """The longest time between two events of one stream, of those that reach into this time."""
    longest = 0.0
    for stream in streams:
        times = [since, *(at for at in stream.times if since <= at <= until), until]
        longest = max(longest, *(later - at for at, later in itertools.pairwise(times)))
    return longest


async def gap_s(daemon: Daemon, streams: Sequence[Stream], work: Callable[[], Awaitable[Any]]) -> float:
    """The longest gap in the streams during `work` and shortly after."""
    since = time.monotonic()
    await work()
    await daemon.until(lambda: time.monotonic() > since + WINDOW_S, "the window's end")
    counts = [len(stream.times) for stream in streams]
    await daemon.until(lambda: all(len(s.times) > n for s, n in zip(streams, counts, strict=True)), "all to go on")
    return longest_gap_s(streams, since, time.monotonic())


async def test_no_stream_stalls_while_models_come_change_and_go(
    daemon: Daemon, client: aiohttp.ClientSession, models: dict[str, DemoModel], capsys: pytest.CaptureFixture[str]
) -> None:
    await greedy(client, LLAMA)
    loads = daemon.loads(MISTRAL)
    streams = [Stream(client, LLAMA, ENDLESS) for _ in range(STREAMS)]
    for stream in streams:
        await stream.begun.wait()
    mistral = model_config(models[MISTRAL].path)

    async def nothing() -> None:
        pass

    async def add() -> None:
        await order(client, "POST", "models", {"name": MISTRAL, **mistral})

    async def change() -> None:
        await order(client, "PATCH", f"models/{MISTRAL}", {"engine_args": {"max_num_seqs": 3}, "input_cost": 0.5})
        await order(client, "PUT", "aliases/chat", {"targets": {LLAMA: 90, MISTRAL: 10}})

    async def remove() -> None:
        await order(client, "DELETE", "aliases/chat")
        await order(client, "DELETE", f"models/{MISTRAL}")

    async def load() -> None:
        await order(client, "POST", f"models/{MISTRAL}/load")
        await daemon.until(lambda: daemon.known(MISTRAL)["residency"] == "awake", "it to be loaded", 120)

    gaps: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for what, work in (("nothing", nothing), ("add", add), ("change", change), ("remove", remove)):
            gaps.setdefault(what, []).append(await gap_s(daemon, streams, work))
    assert daemon.loads(MISTRAL) == loads, "adding loads nothing"
    await add()
    loading = await gap_s(daemon, streams, load)
    gaps["change while awake"] = [await gap_s(daemon, streams, change)]
    await load()
    gaps["remove while awake"] = [await gap_s(daemon, streams, remove)]

    with capsys.disabled():
        print()
        for what, found in gaps.items():
            least, median, most = min(found) * 1000, statistics.median(found) * 1000, max(found) * 1000
            print(f"  {what:20} longest gap between tokens: {least:5.1f} to {most:5.1f} ms, median {median:5.1f} ms")
        print(f"  {'load':20} longest gap between tokens: {loading * 1000:.1f} ms (it shares the processors)")
    # The least of the rounds: what an operation does to the streams it does in each; a busy machine only adds to it.
    for what in ("add", "change", "remove"):
        assert min(gaps[what]) - min(gaps["nothing"]) < MOST_STALL_S, what
    assert not any(stream.errors or stream.task.done() for stream in streams)
    for stream in streams:
        stream.task.cancel()
