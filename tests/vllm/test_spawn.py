"""Engines that are started anew, where they cannot be forked or are not to be."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from arena_server.demo.models import DemoModel
from tests.vllm.daemon import Daemon, model_config
from tests.vllm.test_serving import LLAMA, greedy

# Loaded by every interpreter at its start. A process with threads must not fork.
LEAVES_A_THREAD = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        yield Path(directory)


async def answer(daemon: Daemon) -> str:
    async with aiohttp.ClientSession(daemon.url, timeout=aiohttp.ClientTimeout(total=150)) as client:
        return await greedy(client, LLAMA)


async def test_configured_spawn_serves_and_nothing_outlives_a_killed_daemon(
    path: Path, models: dict[str, DemoModel]
) -> None:
    daemon = Daemon(path, {LLAMA: model_config(models[LLAMA].path)}, engine_start="spawn")
    with daemon:
        assert await answer(daemon)
        assert not daemon.titled("arena-server: zygote"), "vLLM must not have been imported ahead of the engine"
        daemon.kill()
        await daemon.until(lambda: not daemon.left(), "the daemon's processes to end", 5)


async def test_a_zygote_that_must_not_fork_starts_engines_anew_and_says_why(
    path: Path, models: dict[str, DemoModel]
) -> None:
    site = path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(LEAVES_A_THREAD)
    with Daemon(path, {LLAMA: model_config(models[LLAMA].path)}, env={"PYTHONPATH": str(site)}) as daemon:
        assert await answer(daemon)
        assert "each in a new process: the imports left 2 threads running" in daemon.log.read_text()


async def test_a_variable_that_is_read_at_import_reaches_the_engine(
    daemon: Daemon, models: dict[str, DemoModel]
) -> None:
    model = model_config(models[LLAMA].path, env={"VLLM_LOGGING_PREFIX": "<prefix> "})
    assert "<prefix> " not in daemon.log.read_text()
    with daemon.lent({LLAMA: model}):
        assert await answer(daemon)
        assert "<prefix> " in daemon.log.read_text()
