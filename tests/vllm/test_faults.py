"""What happens when a process is killed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from arena_server.demo.events import events
from arena_server.demo.models import DemoModel
from tests.vllm.daemon import ENDLESS, Daemon, model_config
from tests.vllm.test_serving import LLAMA, MISTRAL, Stream, greedy


@pytest.fixture(scope="module")
def daemon(directory: Path, models: dict[str, DemoModel]) -> Iterator[Daemon]:
    configured = {name: model_config(models[name].path, preload=name == MISTRAL) for name in (LLAMA, MISTRAL)}
    with Daemon(directory, configured) as running:
        yield running


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(daemon.url, timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session


async def both_streaming(client: aiohttp.ClientSession, second: int = ENDLESS) -> tuple[Stream, Stream]:
    """A long answer from one model, and one of `second` tokens from the other, both begun."""
    await asyncio.gather(greedy(client, LLAMA), greedy(client, MISTRAL))
    a, b = Stream(client, LLAMA, ENDLESS), Stream(client, MISTRAL, second)
    await asyncio.gather(a.begun.wait(), b.begun.wait())
    return a, b


async def left_alone(daemon: Daemon) -> None:
    """Wait until nothing that died is stopping, or left alone because it died before: from the second time in a row on.

    (The first time, the next request loads it at once.)
    """
    await daemon.until(
        lambda: all(m["residency"] in ("cold", "awake") for m in daemon.health()["models"].values()),
        "the models to be loadable again",
    )


async def test_a_preloaded_model_is_awake_before_anybody_asks(daemon: Daemon) -> None:
    await daemon.until(lambda: daemon.model(MISTRAL)["residency"] == "awake", "the preloaded model")
    assert daemon.health()["loaded_models"] == [MISTRAL]


@pytest.mark.parametrize("victim", ["EngineCore", "server"])
async def test_a_killed_engine_ends_its_own_streams_with_an_error_and_is_loaded_again(
    daemon: Daemon, client: aiohttp.ClientSession, victim: str
) -> None:
    before = await greedy(client, LLAMA)
    a, b = await both_streaming(client, second=1500)
    process = daemon.core_of(LLAMA) if victim == "EngineCore" else daemon.titled(f"arena-server: engine {LLAMA}")[0]
    process.send_signal(signal.SIGKILL)
    await a.task
    assert len(a.errors) == 1, f"the stream must end in an error event, not with {a.usage} after {len(a.times)} events"
    assert a.usage is None, "and must not look complete"
    await b.task
    assert not b.errors
    assert b.usage is not None
    assert b.usage["completion_tokens"] == 1500
    assert daemon.loads(MISTRAL) == 1, "the other model never notices"
    if victim != "EngineCore":
        await left_alone(daemon)
    assert await greedy(client, LLAMA) == before
    assert daemon.model(LLAMA)["error"] is None


async def test_a_killed_zygote_is_replaced_and_its_engines_come_back_on_demand(
    daemon: Daemon, client: aiohttp.ClientSession
) -> None:
    a, b = await both_streaming(client)
    daemon.note_processes()
    (zygote,) = daemon.titled("arena-server: zygote")
    zygote.send_signal(signal.SIGKILL)
    await asyncio.gather(a.task, b.task)
    assert len(a.errors) == len(b.errors) == 1
    await left_alone(daemon)
    assert await greedy(client, LLAMA)
    assert await greedy(client, MISTRAL)
    (new,) = daemon.titled("arena-server: zygote")
    assert new.pid != zygote.pid
    assert not daemon.left(), "processes outlived the zygote"


async def test_nothing_outlives_a_killed_daemon(daemon: Daemon, client: aiohttp.ClientSession) -> None:
    a, b = await both_streaming(client)
    daemon.kill()
    await asyncio.gather(a.task, b.task, return_exceptions=True)
    await daemon.until(lambda: not daemon.left(), "the daemon's processes to end", 5)
    # The next one starts as if nothing had been, and clears away what the killed one left on disk.
    daemon.start()
    assert await greedy(client, LLAMA)
    assert len(list(daemon.run_dir.iterdir())) == 1


async def test_sigterm_lets_running_streams_and_battles_finish(daemon: Daemon, client: aiohttp.ClientSession) -> None:
    await asyncio.gather(greedy(client, LLAMA), greedy(client, MISTRAL))
    stream = Stream(client, LLAMA, 600)
    await stream.begun.wait()
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    battle = {"messages": prompt, "models": [LLAMA, MISTRAL], "max_tokens": 400, "min_tokens": 400}
    async with client.post("/v1/arena/battles", json=battle) as response:
        got = events(response)
        while (await anext(got))[0] != "delta":
            pass
        assert daemon.process is not None
        daemon.note_processes()
        daemon.process.send_signal(signal.SIGTERM)
        rest = [event async for event in got]
    assert rest[-1] == ("end", {"votable": True, "reason": None})
    await stream.task
    assert not stream.errors
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == 600
    assert await asyncio.to_thread(daemon.process.wait, 30) == 0
    assert not daemon.left()
    assert not daemon.run_dir.exists()


async def test_a_stream_that_outlasts_the_grace_ends_with_an_error(
    directory: Path, models: dict[str, DemoModel]
) -> None:
    configured = {LLAMA: model_config(models[LLAMA].path)}
    with Daemon(directory, configured, server={"shutdown_grace_s": 1}) as daemon:
        async with aiohttp.ClientSession(daemon.url) as client:
            streams = [Stream(client, LLAMA, ENDLESS) for _ in range(2)]
            await asyncio.gather(*(s.begun.wait() for s in streams))
            assert daemon.process is not None
            daemon.note_processes()
            daemon.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*(s.task for s in streams))
        assert [s.errors[0]["code"] for s in streams] == ["shutting_down"] * 2
        assert await asyncio.to_thread(daemon.process.wait, 30) == 0
