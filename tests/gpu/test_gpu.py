"""Real vLLM on a real GPU: what the CPU cannot show. `ARENA_GPU_DRY_RUN=1` tries the tests themselves on the CPU.

Models are written on the spot (`bench/gpu_setup.py`); `ARENA_GPU_MODEL_SIZE` is a size of make_model.py, or `demo`.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from arena_server.blueprint import UNMEASURED_ASLEEP_BYTES
from arena_server.engine.launcher import Launcher
from arena_server.gpu.device_memory import SLACK_BYTES
from bench.gpu_setup import NAMES, Setup, Subject, make_setup, set_environment, why_no_gpu
from tests.vllm.daemon import Daemon
from tests.vllm.test_serving import greedy

REASON = why_no_gpu()
DRY_RUN = REASON is not None and os.environ.get("ARENA_GPU_DRY_RUN") == "1"
FORKED = "is imported; engines are forked from process"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(REASON is not None and not DRY_RUN, reason=f"{REASON} (ARENA_GPU_DRY_RUN=1 tries them without)"),
]


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    before = dict(os.environ)
    set_environment(gpu=REASON is None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(tmp_path_factory.mktemp("gpu-models"), os.environ.get("ARENA_GPU_MODEL_SIZE"))


@pytest.fixture
def path() -> Iterator[Path]:
    """Short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        yield Path(directory)


@pytest.fixture
async def launcher() -> AsyncIterator[Launcher]:
    launcher = Launcher("fork", {})
    yield launcher
    await launcher.close()


def gib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**30:.2f} GiB"


async def test_it_sleeps_and_wakes_at_both_levels_and_gives_its_memory_back(
    setup: Setup, launcher: Launcher, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "arena_server.engine.launcher")
    used_before = setup.probe.used_bytes(setup.device)
    subject = Subject(setup, NAMES[0], launcher, path)
    try:
        load_s = await subject.load()
        assert FORKED in caplog.text, "the imports must leave CUDA alone, and one thread"
        before = await subject.greedy()
        awake, listed = subject.bytes_of("awake_bytes"), subject.listed_bytes
        print(f"\n  load {load_s:.2f} s; awake {gib(awake)}, by process {gib(listed)}")
        if setup.gpu:
            assert awake is not None
            assert (subject.engine.facts.weights_bytes or 1) < awake <= setup.alone * setup.probe.devices[0].total_bytes
            assert subject.bytes_of("load_peak_bytes") is not None
        for level in (1, 2):
            sleep_s = await subject.sleep(level)
            asleep, listed = subject.bytes_of("asleep_bytes"), subject.listed_bytes
            wake_s = await subject.wake()
            print(
                f"  level {level}: sleep {sleep_s:.2f} s, wake {wake_s:.2f}; "
                f"asleep {gib(asleep)}, by process {gib(listed)}; awake again {gib(subject.bytes_of('awake_bytes'))}"
            )
            assert await subject.greedy() == before, f"it answers otherwise after sleep {level}"
            assert wake_s < load_s
            if setup.gpu:
                assert awake is not None
                assert asleep is not None
                assert 0 < asleep <= UNMEASURED_ASLEEP_BYTES, "what the pool reckons with before it is measured"
                assert subject.bytes_of("awake_bytes") == pytest.approx(awake, rel=0.1)
    finally:
        back = await subject.stop()
    assert back
    if setup.gpu:
        assert setup.probe.used_bytes(setup.device) <= used_before + SLACK_BYTES


@pytest.mark.parametrize("level", [1, 2])
async def test_two_models_swap_through_the_daemon_with_room_for_one(setup: Setup, path: Path, level: int) -> None:
    used_before = setup.probe.used_bytes(setup.device)
    models = {name: setup.model_config(name, sleep_level=level) for name in NAMES}
    with Daemon(path, models, pool=setup.pool_config()) as daemon:
        async with aiohttp.ClientSession(daemon.url, timeout=aiohttp.ClientTimeout(total=600)) as client:
            first = {name: await greedy(client, name) for name in NAMES}
            assert first[NAMES[0]] != first[NAMES[1]], "two models"
            for _ in range(3):
                for name in NAMES:
                    assert await greedy(client, name) == first[name], f"{name} answers otherwise after sleep {level}"
                    assert daemon.health()["loaded_models"] == [name]
            assert [daemon.loads(name) for name in NAMES] == [1, 1], "the rest was sleep"
            assert FORKED in daemon.log.read_text()
            for name in NAMES:
                known = daemon.known(name)
                (share,) = known["memory"]["devices"]
                print(f"\n  {name}: {known['times']}, {share}")
                assert known["times"]["wake_s"] < known["times"]["load_s"]
                if setup.gpu:
                    assert 0 < share["asleep_bytes"] < share["awake_bytes"]
            if setup.gpu:
                # The books: one awake, the other with what it was measured to hold asleep.
                held = [daemon.known(name)["memory"]["devices"][0] for name in NAMES]
                assert held[0]["reserved_bytes"] == held[0]["asleep_bytes"]
                assert held[1]["reserved_bytes"] > held[1]["asleep_bytes"]
            for name in NAMES:
                async with client.post(f"/admin/models/{name}/stop") as response:
                    assert response.status == 202
            await daemon.until(
                lambda: all(daemon.model(name)["residency"] == "cold" for name in NAMES), "both to be stopped"
            )
            if setup.gpu:
                assert setup.probe.used_bytes(setup.device) <= used_before + SLACK_BYTES
