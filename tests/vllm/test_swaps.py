"""Many swaps: nothing is lost on the way, and everybody is served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from arena_server.demo.models import DemoModel
from tests.vllm.daemon import Daemon, model_config
from tests.vllm.test_serving import LLAMA, MISTRAL, QWEN, Stream, greedy
from tests.vllm.vitals import abandoned, shared_memory, vitals

SWAPS = int(os.environ.get("ARENA_SOAK_SWAPS", "12"))
WARM_UP = 4  # swaps until both models have been loaded twice: the first of each fills caches
# Allocators keep what they were once given; a leak of 100 KiB a swap would show beyond this within 200.
DAEMON_SLACK_BYTES = 16 << 20
ZYGOTE_SLACK_BYTES = 4 << 20

FOURTH = "tiny-fourth"
BATTLES = 2  # of each client
ANSWER_TOKENS = 60

PATIENCE_S = 1.0
STEADY_TOKENS = 600  # half of it is far more than a test that gets no processor can lag behind
# Beside what is measured: ending the engine that drains, and a busy machine.
MARGIN_S = 8.0


@pytest.fixture(scope="module")
def configured(models: dict[str, DemoModel]) -> dict[str, Any]:
    """Four models; the fourth is the first under another name."""
    paths = {name: m.path for name, m in models.items()} | {FOURTH: models[LLAMA].path}
    return {name: model_config(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def daemon(daemon: Daemon, configured: dict[str, Any]) -> Iterator[Daemon]:
    with daemon.lent(configured) as running:
        yield running


async def begin(daemon: Daemon, configured: dict[str, Any], **pool: Any) -> None:
    """Put other rules for the pool into force, and begin with nothing loaded."""
    daemon.configure(configured, pool=pool)
    said = await asyncio.to_thread(daemon.hang_up)
    assert "added=[] removed=[] changed=[]" in said
    async with client_of(daemon) as client:
        for name in configured:
            async with client.post(f"/admin/models/{name}/stop") as response:
                assert response.status == 202
    await daemon.until(
        lambda: all(m["residency"] == "cold" for m in daemon.health()["models"].values()), "all models to be stopped"
    )


@contextlib.asynccontextmanager
async def client_of(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(daemon.url, timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session


@pytest.mark.soak
@pytest.mark.timeout(120 + 20 * SWAPS)
async def test_nothing_grows_from_swap_to_swap(daemon: Daemon, configured: dict[str, Any]) -> None:
    segments = shared_memory()
    await begin(daemon, configured, max_awake_models=1)

    async def ask(name: str) -> str:
        async with client_of(daemon) as client:  # each with a connection of its own, which is gone at every look
            return await greedy(client, name)

    answers = {name: await ask(name) for name in (LLAMA, MISTRAL) * (WARM_UP // 2)}
    before, swaps_before = vitals(daemon), daemon.get("/admin/pool")["swaps_total"]
    print(f"\n  after {WARM_UP} swaps: {before}")
    began = time.monotonic()
    for number in range(1, SWAPS + 1):
        name = (LLAMA, MISTRAL)[(number - 1) % 2]
        assert await ask(name) == answers[name], f"swap {number}: another answer"
        if number % 20 == 0:
            print(f"  after {WARM_UP + number}: {vitals(daemon)}", flush=True)
    took_s = (time.monotonic() - began) / SWAPS
    if SWAPS % 2:
        await ask(MISTRAL)  # the same model awake as at the first look
    # Python's resource trackers of the engines that were killed end in their own time.
    await daemon.until(lambda: not vitals(daemon).grown(before), f"the counts to be as before: {before}", 20)
    await daemon.until(lambda: not abandoned(segments), "segments in /dev/shm to be removed", 20)
    after = vitals(daemon)
    print(f"  at the end: {after}\n  {SWAPS} swaps, {took_s:.2f} s each", flush=True)
    assert daemon.get("/admin/pool")["swaps_total"] >= swaps_before + SWAPS
    assert after.zygote_rss <= before.zygote_rss + ZYGOTE_SLACK_BYTES, (before, after)
    assert after.daemon_rss <= before.daemon_rss + DAEMON_SLACK_BYTES, (before, after)


async def say(client: aiohttp.ClientSession, model: str) -> int:
    """One side of a battle, as an arena page asks for it; returns the number of tokens of the whole answer."""
    body = {
        "model": model, "messages": [{"role": "user", "content": "What is the sea?"}], "stream": True,
        "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    tokens, done = 0, False
    async with client.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            field, _, data = line.decode().strip().partition(": ")
            if field != "data":
                continue  # comments tell what a request waits for
            if data == "[DONE]":
                done = True
                continue
            event: dict[str, Any] = json.loads(data)
            assert "error" not in event, event
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    assert done, f"{model}: the answer was cut off"
    return tokens


async def test_two_battles_over_four_models_with_room_for_two_all_finish(
    daemon: Daemon, configured: dict[str, Any]
) -> None:
    await begin(daemon, configured, max_awake_models=2)
    before = daemon.get("/admin/pool")
    async with client_of(daemon) as client:

        async def battles(pair: tuple[str, str]) -> None:
            for _ in range(BATTLES):
                sides = await asyncio.gather(*(say(client, model) for model in pair))
                assert list(sides) == [ANSWER_TOKENS, ANSWER_TOKENS]

        began = time.monotonic()
        await asyncio.gather(battles((LLAMA, MISTRAL)), battles((QWEN, FOURTH)))
        took_s = time.monotonic() - began
    pool = daemon.get("/admin/pool")
    swaps = pool["swaps_total"] - before["swaps_total"]
    print(f"\n  {2 * BATTLES} battles, {swaps} swaps, {took_s:.1f} s")
    served = {m["name"]: m["requests_total"] for m in before["models"]}
    assert [m["requests_total"] - served[m["name"]] for m in pool["models"]] == [BATTLES] * 4
    assert sum(m["residency"] == "awake" for m in pool["models"]) <= 2
    assert not pool["queue"]
    assert not [m["name"] for m in pool["models"] if m["failures"]]


class SteadyTraffic:
    """Streams of one model, the next begun while the last is half done: one at least runs all the time."""

    def __init__(self, client: aiohttp.ClientSession, model: str) -> None:
        self.streams: list[Stream] = []
        self._task = asyncio.create_task(self._run(client, model))

    async def _run(self, client: aiohttp.ClientSession, model: str) -> None:
        while True:
            stream = Stream(client, model, STEADY_TOKENS)
            self.streams.append(stream)
            await stream.halfway.wait()
            if stream.task.done():
                stream.task.result()  # an error ends the traffic

    async def finish(self) -> None:
        self._task.cancel()
        await asyncio.gather(*(s.task for s in self.streams))

    def longest_s(self) -> float:
        """Of the answers alone, without the wait for their first token."""
        return max(s.times[-1] - s.times[0] for s in self.streams)


async def test_steady_traffic_on_one_model_does_not_starve_another(daemon: Daemon, configured: dict[str, Any]) -> None:
    await begin(daemon, configured, max_awake_models=1, patience_s=PATIENCE_S)
    async with client_of(daemon) as client:
        await greedy(client, LLAMA)
        loads = daemon.loads(LLAMA)
        traffic = [SteadyTraffic(client, LLAMA) for _ in range(2)]
        await daemon.until(lambda: all(len(t.streams) >= 3 for t in traffic), "the traffic to be steady")
        assert daemon.model(LLAMA)["running"] >= 2

        asked = time.monotonic()
        await greedy(client, MISTRAL)
        waited_s = time.monotonic() - asked
        begun = [len(t.streams) for t in traffic]
        await daemon.until(
            lambda: all(len(t.streams) >= n + 1 for t, n in zip(traffic, begun, strict=True)), "the traffic to go on"
        )
        await asyncio.gather(*(t.finish() for t in traffic))

    drain_s = max(t.longest_s() for t in traffic)
    load_s = daemon.model(MISTRAL)["last_load_s"]
    most_s = PATIENCE_S + drain_s + load_s + MARGIN_S
    print(
        f"\n  {MISTRAL} waited {waited_s:.1f} s of at most {most_s:.1f}: "
        f"patience {PATIENCE_S}, an answer of the traffic {drain_s:.1f}, load {load_s:.1f}, margin {MARGIN_S}"
    )
    assert waited_s <= most_s
    streams = [s for t in traffic for s in t.streams]
    assert not [s.errors for s in streams if s.errors], "the traffic drained; it was not cut off"
    assert [s.usage["completion_tokens"] for s in streams if s.usage] == [STEADY_TOKENS] * len(streams)
    assert daemon.loads(LLAMA) == loads + 1, "it came back once"
