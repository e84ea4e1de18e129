"""Models that sleep instead of being stopped.

On the CPU vLLM's sleep frees nothing, but all that is asked of it is answered as on a GPU.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from arena_server.demo.models import DemoModel
from tests.vllm.daemon import Daemon, model_config
from tests.vllm.test_serving import LLAMA, MISTRAL, QWEN, Stream, greedy

LEVELS = {LLAMA: 1, MISTRAL: 2, QWEN: 1}


@pytest.fixture(scope="module")
def daemon(daemon: Daemon, models: dict[str, DemoModel]) -> Iterator[Daemon]:
    configured = {name: model_config(models[name].path, sleep_level=level) for name, level in LEVELS.items()}
    with daemon.lent(configured, pool={"max_awake_models": 2}) as running:
        yield running


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(daemon.url, timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session


def residencies(daemon: Daemon) -> dict[str, str]:
    """By /health and by /admin/pool, which must agree."""
    pool = {m["name"]: m["residency"] for m in daemon.get("/admin/pool")["models"]}
    assert pool == {name: m["residency"] for name, m in daemon.health()["models"].items()}
    return pool


def reserved(daemon: Daemon, name: str) -> int:
    return sum(d["reserved_bytes"] for d in daemon.known(name)["memory"]["devices"])


def command(daemon: Daemon, *argv: str) -> str:
    """A command of the console; returns the last line it prints."""
    process = subprocess.run(
        [sys.executable, "-m", "arena_server", *argv, "--url", daemon.url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout.splitlines()[-1]


async def test_who_has_to_leave_sleeps_and_wakes_as_it_was(daemon: Daemon, client: aiohttp.ClientSession) -> None:
    loads = {name: daemon.loads(name) for name in LEVELS}
    first = {name: await greedy(client, name) for name in (LLAMA, MISTRAL)}
    cores = {name: daemon.core_of(name).pid for name in (LLAMA, MISTRAL)}
    awake_bytes = reserved(daemon, LLAMA)
    first[QWEN] = await greedy(client, QWEN)
    cores[QWEN] = daemon.core_of(QWEN).pid
    assert residencies(daemon) == {LLAMA: "asleep", MISTRAL: "awake", QWEN: "awake"}
    assert set(daemon.health()["loaded_models"]) == {MISTRAL, QWEN}
    assert reserved(daemon, LLAMA) == awake_bytes > 0, "host RAM: its sleep frees nothing, and the books say so"

    # Each was the least recently used but one, so each has to wake, and another to fall asleep.
    for name, leaves in ((LLAMA, MISTRAL), (MISTRAL, QWEN), (QWEN, LLAMA)):
        assert await greedy(client, name) == first[name], f"{name} answers otherwise after sleep {LEVELS[name]}"
        assert residencies(daemon)[leaves] == "asleep"
        assert daemon.core_of(name).pid == cores[name], "the same engine"
        state, times = daemon.model(name), daemon.known(name)["times"]
        print(
            f"\n  {name}, level {LEVELS[name]}: load {state['last_load_s']:.2f} s, "
            f"sleep {times['sleep_s']:.2f}, wake {state['last_wake_s']:.2f}"
        )
        assert state["last_wake_s"] < state["last_load_s"]
    assert [daemon.loads(name) - loads[name] for name in LEVELS] == [1, 1, 1]


async def test_the_consoles_orders(daemon: Daemon, client: aiohttp.ClientSession) -> None:
    before = await greedy(client, LLAMA)
    core, loads = daemon.core_of(LLAMA).pid, daemon.loads(LLAMA)
    stream = Stream(client, LLAMA, 400)
    await stream.begun.wait()
    said = await asyncio.to_thread(command, daemon, "sleep", LLAMA)
    assert said.startswith(f"{LLAMA}: asleep after"), said
    await stream.task
    assert stream.usage is not None, "it fell asleep once its answers were done"
    assert stream.usage["completion_tokens"] == 400

    said = await asyncio.to_thread(command, daemon, "load", LLAMA)
    assert said.startswith(f"{LLAMA}: awake after"), said
    assert (daemon.core_of(LLAMA).pid, daemon.loads(LLAMA)) == (core, loads), "it was woken, not loaded"
    assert await greedy(client, LLAMA) == before

    for residency in ("awake", "asleep"):
        if residency == "asleep":
            await asyncio.to_thread(command, daemon, "sleep", LLAMA)
        assert residencies(daemon)[LLAMA] == residency
        said = await asyncio.to_thread(command, daemon, "stop", LLAMA)
        assert said.startswith(f"{LLAMA}: cold after"), said
        assert not daemon.titled(f"arena-server: engine {LLAMA}")
        assert reserved(daemon, LLAMA) == 0
        said = await asyncio.to_thread(command, daemon, "load", LLAMA)
        assert said.startswith(f"{LLAMA}: awake after"), said
    assert daemon.loads(LLAMA) == loads + 2
    assert await greedy(client, LLAMA) == before


@pytest.mark.parametrize("name", [LLAMA, MISTRAL])
async def test_a_sleeper_that_is_killed_is_cold_and_the_next_request_loads_it(
    daemon: Daemon, client: aiohttp.ClientSession, name: str
) -> None:
    before = await greedy(client, name)
    loads = daemon.loads(name)
    await asyncio.to_thread(command, daemon, "sleep", name)
    daemon.core_of(name).kill()
    await daemon.until(lambda: daemon.model(name)["residency"] == "cold", "the sleeper's end to be noticed", 10)
    assert daemon.model(name)["error"]
    assert reserved(daemon, name) == 0
    assert not daemon.titled(f"arena-server: engine {name}")
    assert await greedy(client, name) == before
    assert daemon.loads(name) == loads + 1
    assert daemon.model(name)["error"] is None
    assert daemon.known(name)["failures"] == 0, "nobody's answer was lost"
