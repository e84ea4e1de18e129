"""A new configuration while the daemon runs, and what it knows after a restart. The tests go on from each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from arena_server.demo.models import DemoModel
from tests.vllm.daemon import ENDLESS, Daemon, model_config
from tests.vllm.test_serving import LLAMA, MISTRAL, Stream, greedy, post

SHORT = 512  # tokens of context, once it is changed
CHANGED_UNDER = 1000  # tokens of an answer that is running then


@pytest.fixture(scope="module")
def daemon(directory: Path, models: dict[str, DemoModel]) -> Iterator[Daemon]:
    with Daemon(directory, {LLAMA: model_config(models[LLAMA].path)}) as running:
        yield running


@pytest.fixture(scope="module")
def both(models: dict[str, DemoModel]) -> dict[str, Any]:
    return {name: model_config(models[name].path) for name in (LLAMA, MISTRAL)}


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(daemon.url, timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session


async def test_an_added_model_is_served_and_a_stream_on_another_goes_on(
    daemon: Daemon, client: aiohttp.ClientSession, both: dict[str, Any]
) -> None:
    status, _ = await post(client, "/v1/completions", model=MISTRAL, prompt="x", max_tokens=1)
    assert status == 404
    await greedy(client, LLAMA)
    core = daemon.core_of(LLAMA).pid
    stream = Stream(client, LLAMA, ENDLESS)
    await stream.begun.wait()
    daemon.configure(both)
    said = await asyncio.to_thread(daemon.hang_up)
    assert f"added=['{MISTRAL}'] removed=[] changed=[] unchanged=['{LLAMA}']" in said
    assert await greedy(client, MISTRAL)
    events = len(stream.times)
    await daemon.until(lambda: len(stream.times) > events, "the stream to go on")
    assert not stream.task.done()
    assert not stream.errors
    assert daemon.core_of(LLAMA).pid == core
    stream.task.cancel()


async def test_a_faulty_file_changes_nothing(
    daemon: Daemon, client: aiohttp.ClientSession, both: dict[str, Any]
) -> None:
    await greedy(client, LLAMA)
    before = daemon.get("/admin/pool")
    cores = [daemon.core_of(name).pid for name in both]
    daemon.configure({LLAMA: {**both[LLAMA], "modell": "x"}})
    said = await asyncio.to_thread(daemon.hang_up)
    assert "The configuration stays as it was" in said
    assert "modell" in said
    assert f"models.{LLAMA}" in said
    after = daemon.get("/admin/pool")
    for state in (before, after):
        for model in state["models"]:
            del model["since_s"], model["idle_s"]
    assert after["models"] == before["models"]
    assert after["limits"] == before["limits"]
    assert await greedy(client, MISTRAL)
    assert [daemon.core_of(name).pid for name in both] == cores


async def test_a_changed_model_gets_a_new_engine_once_its_streams_are_done(
    daemon: Daemon, client: aiohttp.ClientSession, both: dict[str, Any]
) -> None:
    too_long = {"model": LLAMA, "prompt": [5] * 2 * SHORT, "max_tokens": 1}
    status, answer = await post(client, "/v1/completions", **too_long)
    assert status == 200, answer
    loads, other = daemon.loads(LLAMA), daemon.core_of(MISTRAL).pid
    stream = Stream(client, LLAMA, CHANGED_UNDER)
    await stream.begun.wait()
    short = {"max_model_len": SHORT, "hf_overrides": {"max_position_embeddings": SHORT}}
    changed = {**both[LLAMA], "engine_args": {**both[LLAMA]["engine_args"], **short}}
    daemon.configure({**both, LLAMA: changed})
    said = await asyncio.to_thread(daemon.hang_up)
    assert f"changed=['{LLAMA}'] unchanged=['{MISTRAL}']" in said
    assert not stream.task.done()
    status, answer = await post(client, "/v1/completions", **too_long)
    assert status == 400, "this one waited for the new engine"
    assert str(SHORT) in answer["error"]["message"]
    await stream.task
    assert not stream.errors
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == CHANGED_UNDER
    assert daemon.loads(LLAMA) == loads + 1
    assert daemon.core_of(MISTRAL).pid == other


async def test_what_was_measured_is_known_again_after_a_restart(daemon: Daemon, client: aiohttp.ClientSession) -> None:
    assert await greedy(client, LLAMA)
    measured = daemon.known(LLAMA)
    assert measured["times"]["load_s"] > 0
    await asyncio.to_thread(daemon.end)
    await asyncio.to_thread(daemon.start)
    again = daemon.known(LLAMA)
    assert again["residency"] == "cold"
    assert again["times"]["load_s"] == pytest.approx(measured["times"]["load_s"], abs=0.1)
    assert again["memory"]["weights_bytes"] == measured["memory"]["weights_bytes"]
    assert not list((daemon.directory / "state").glob("*.broken-*"))


async def test_measurements_that_cannot_be_read_are_set_aside(daemon: Daemon) -> None:
    file = daemon.directory / "state" / "measurements.sqlite"
    await asyncio.to_thread(daemon.end)
    for beside in file.parent.glob(f"{file.name}-*"):
        beside.unlink()
    file.write_bytes(b"not a database " * 300)
    await asyncio.to_thread(daemon.start)
    (aside,) = file.parent.glob("*.broken-*")
    assert aside.read_bytes().startswith(b"not a database")
    (line,) = (line for line in daemon.log.read_text().splitlines() if "set aside as" in line)
    assert "WARNING" in line
    assert str(aside) in line
    assert daemon.known(LLAMA)["times"]["load_s"] is None
