"""The contract of `Engine`, kept by vLLM's engine and by the fake one of the other tests."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from arena_server.config import ModelConfig
from arena_server.demo.daemon import ENGINE_ARGS
from arena_server.demo.models import make_demo_models
from arena_server.engine import process_group
from arena_server.engine.base import EngineError
from arena_server.engine.command import EngineCommand, engine_command
from arena_server.engine.launcher import Launcher
from arena_server.engine.vllm import VllmEngine
from tests.engine_contract import EngineContract, healthy
from tests.support.fake_engine import FakeEngine
from tests.support.gate import until
from tests.support.replies import reply_to, stream

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


class FakeSubject:
    """A fake engine."""

    ways_to_die = ("killed",)

    def __init__(self, directory: Path) -> None:
        self.engine = FakeEngine("fake", directory / "1")
        self._directory = directory

    def leftovers(self) -> list[str]:
        tasks = [str(task) for task in self.engine._connections]
        return [*map(str, self._directory.rglob("*")), *tasks]

    def break_loads(self) -> None:
        self.engine.fail_loads("out of memory")

    def mend_loads(self) -> None:
        self.engine.load_error = None
        self.engine.load_gate.release()

    def hold_load(self) -> None:
        self.engine.load_gate.hold()

    async def kill(self, way: str) -> None:
        await self.engine.die(way)

    def stream_request(self) -> dict[str, object]:
        # More than all buffers on the way hold: it ends when its reader has read it.
        self.engine.reply = lambda request: (
            stream([b"data: x\n\n" * 1000] * 100_000) if request.method == "POST" else reply_to(request)
        )
        return {"model": "fake", "prompt": "a", "stream": True}


class TestFakeEngine(EngineContract):
    @pytest.fixture
    async def subject(self) -> AsyncIterator[FakeSubject]:
        with tempfile.TemporaryDirectory(prefix="arena-") as directory:
            subject = FakeSubject(Path(directory))
            yield subject
            await subject.engine.stop()
            assert subject.leftovers() == []
            assert subject.engine.faults == []


class VllmSubject:
    """A vLLM engine of a demo model."""

    ways_to_die = ("VLLM::EngineCor", "VLLM::Worker", "leader")

    def __init__(self, launcher: Launcher, model: Path, directory: Path) -> None:
        self.launcher = launcher
        self.engine = VllmEngine("tiny", launcher, directory / "1", self._command, load_timeout_s=300)
        self._model = model
        self._directory = directory
        self._broken = False

    def _command(self, directory: Path) -> EngineCommand:
        arguments = {**ENGINE_ARGS, "max_model_len": 1 << 30} if self._broken else ENGINE_ARGS
        config = ModelConfig.model_validate(
            {"model": str(self._model), "gpu_memory_utilization": 0.05, "engine_args": arguments}
        )
        return engine_command("tiny", config, (0,), directory, gpu=False)

    def leftovers(self) -> list[str]:
        zygote = self.launcher.zygote_pid
        children = psutil.Process(zygote).children(recursive=True) if zygote is not None else []
        return [*map(str, self._directory.rglob("*")), *(str(p) for p in children if _lives(p))]

    def break_loads(self) -> None:
        self._broken = True

    def mend_loads(self) -> None:
        self._broken = False

    def hold_load(self) -> None:
        """It takes seconds as it is."""

    async def kill(self, way: str) -> None:
        leader = self.engine.pid
        assert leader is not None
        members = process_group.members(leader)
        victim = leader if way == "leader" else next(m.pid for m in members if m.title.startswith(way))
        os.kill(victim, signal.SIGKILL)

    def stream_request(self) -> dict[str, object]:
        return {"model": "tiny", "prompt": "a", "stream": True, "max_tokens": 2000, "ignore_eos": True}


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def launcher() -> AsyncIterator[Launcher]:
    """One zygote for all: its imports take many times as long as a load."""
    launcher = Launcher("fork", ENVIRONMENT)
    await launcher.warm_up()
    yield launcher
    await launcher.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_models(tmp_path_factory.mktemp("models"), report=print)[0].path


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (scripts/setup)")
@pytest.mark.asyncio(loop_scope="module")
class TestVllmEngine(EngineContract):
    @pytest_asyncio.fixture(loop_scope="module")
    async def subject(self, launcher: Launcher, model: Path) -> AsyncIterator[VllmSubject]:
        with tempfile.TemporaryDirectory(prefix="arena-") as directory:
            subject = VllmSubject(launcher, model, Path(directory))
            yield subject
            await subject.engine.stop()
            assert subject.leftovers() == []

    async def test_a_load_that_is_cancelled_while_its_process_is_made_leaves_none(self, subject: VllmSubject) -> None:
        load = asyncio.create_task(subject.engine.load())
        await until(lambda: subject.launcher._zygote and subject.launcher._zygote.engines, "the order to start")
        assert subject.engine.pid is None
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        await subject.engine.stop()
        assert subject.leftovers() == []

    @pytest.mark.parametrize("way", VllmSubject.ways_to_die)
    async def test_a_load_whose_process_is_killed_fails_at_once(self, subject: VllmSubject, way: str) -> None:
        load = asyncio.create_task(subject.engine.load())

        def there() -> bool:
            pid = subject.engine.pid
            titles = [m.title for m in process_group.members(pid)] if pid is not None else []
            return bool(titles) and (way == "leader" or any(t.startswith(way) for t in titles))

        await until(there, f"{way} to be there")
        await subject.kill(way)
        with pytest.raises(EngineError) as failed:
            await asyncio.wait_for(load, 30)
        assert "\n" not in str(failed.value)
        await subject.engine.stop()
        assert subject.leftovers() == []

    async def test_the_folder_of_a_model_that_is_not_there_is_told_of_at_once(self, subject: VllmSubject) -> None:
        subject._model = Path("/nonexistent/model")
        with pytest.raises(EngineError, match=r"^the model folder /nonexistent/model does not exist$"):
            await subject.engine.load()

    async def test_the_reason_of_a_refused_argument_is_vllms_own(self, subject: VllmSubject) -> None:
        subject.break_loads()
        with pytest.raises(EngineError, match="User-specified max_model_len"):
            await subject.engine.load()


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (scripts/setup)")
async def test_an_engine_that_is_not_forked_is_loaded_killed_and_stopped_as_well(model: Path) -> None:
    launcher = Launcher("spawn", ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        subject = VllmSubject(launcher, model, Path(directory))
        await subject.engine.load()
        assert await healthy(subject.engine)
        await subject.kill("VLLM::EngineCor")
        assert "\n" not in await asyncio.wait_for(subject.engine.died(), 5)
        await subject.engine.stop()
        assert subject.leftovers() == []
        await launcher.close()
