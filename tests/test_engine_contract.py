"""The contract of `Engine`, kept by vLLM's engine and by the fake one of the other tests."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from arena_server.config_model import ModelConfig
from arena_server.demo.daemon import ENGINE_ARGS
from arena_server.demo.models import make_demo_models
from arena_server.engine import process_group
from arena_server.engine.base import EngineError
from arena_server.engine.client import EngineLost
from arena_server.engine.command import EngineCommand, engine_command
from arena_server.engine.launcher import Launcher
from arena_server.engine.vllm import VllmEngine
from tests.engine_contract import LocalEngineContract, healthy, streaming
from tests.support.fake_engine import FakeEngine
from tests.support.gate import until
from tests.support.processes import lives
from tests.support.replies import reply_to, stream

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


HUNG = "no token for 2 s while 1 request ran (pool.progress_stall_s)"


async def _read_all(chunks: AsyncIterator[bytes]) -> None:
    with contextlib.suppress(EngineLost):
        async for _ in chunks:
            pass


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
        for gate in (self.engine.load_gate, self.engine.sleep_gate, self.engine.wake_gate):
            gate.release()

    def hold_load(self) -> None:
        self.engine.load_gate.hold()

    def hold_sleep(self) -> None:
        self.engine.sleep_gate.hold()
        self.engine.wake_gate.hold()

    async def kill(self, way: str) -> None:
        await self.engine.die(way)

    def stream_request(self) -> dict[str, object]:
        # More than all buffers on the way hold: it ends when its reader has read it.
        self.engine.reply = lambda request: (
            stream([b"data: x\n\n" * 1000] * 100_000) if request.method == "POST" else reply_to(request)
        )
        return {"model": "fake", "prompt": "a", "stream": True}


class TestFakeEngine(LocalEngineContract):
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

    def __init__(self, launcher: Launcher, model: Path, directory: Path, progress_stall_s: float = 180) -> None:
        self.launcher = launcher
        self.engine = VllmEngine(
            "tiny", launcher, directory / "1", self._command, load_timeout_s=300, progress_stall_s=progress_stall_s
        )
        self._model = model
        self._directory = directory
        self._broken = False
        self.own_cache_size = True
        self.fraction = 0.05

    def _command(self, directory: Path) -> EngineCommand:
        arguments = {**ENGINE_ARGS, "max_model_len": 1 << 30} if self._broken else dict(ENGINE_ARGS)
        if not self.own_cache_size:
            del arguments["kv_cache_memory_bytes"]
        config = ModelConfig.model_validate(
            {
                "model": str(self._model),
                "gpu_memory_utilization": self.fraction,
                "sleep_level": 1,  # on the CPU it frees nothing, but all that is asked of vLLM is answered
                "engine_args": arguments,
            }
        )
        return engine_command("tiny", config, (0,), directory, gpu=False)

    def leftovers(self) -> list[str]:
        zygote = self.launcher.zygote_pid
        children = psutil.Process(zygote).children(recursive=True) if zygote is not None else []
        return [*map(str, self._directory.rglob("*")), *(str(p) for p in children if lives(p))]

    def break_loads(self) -> None:
        self._broken = True

    def mend_loads(self) -> None:
        self._broken = False

    def hold_load(self) -> None:
        """It takes seconds as it is."""

    def hold_sleep(self) -> None:
        """The canary's first answer takes some milliseconds, as does each step after it."""

    async def kill(self, way: str) -> None:
        os.kill(self.member(way), signal.SIGKILL)

    def member(self, title: str) -> int:
        """The pid of that one of its processes."""
        leader = self.engine.pid
        assert leader is not None
        members = process_group.members(leader)
        return leader if title == "leader" else next(m.pid for m in members if m.title.startswith(title))

    def stream_request(self) -> dict[str, object]:
        return {"model": "tiny", "prompt": "a", "stream": True, "max_tokens": 2000, "ignore_eos": True}


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
class TestVllmEngine(LocalEngineContract):
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
        # Its kill is on the way to the zygote; to wait for that would be to wait for the zygote's imports, at times.
        await until(lambda: subject.leftovers() == [], "the process to be gone")

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

    async def test_an_engine_core_that_hangs_is_dead_once_a_request_has_waited_too_long(
        self, launcher: Launcher, model: Path
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="arena-") as directory:
            subject = VllmSubject(launcher, model, Path(directory), progress_stall_s=2)
            await subject.engine.load()
            died = asyncio.create_task(subject.engine.died())
            async with streaming(subject) as rest:
                os.kill(subject.member("VLLM::EngineCor"), signal.SIGSTOP)
                reading = asyncio.create_task(_read_all(rest))
                assert await asyncio.wait_for(died, 30) == HUNG
                assert not reading.done()
                assert await healthy(subject.engine), "its server does not know"
                await subject.engine.stop()
                await asyncio.wait_for(reading, 30)
            assert subject.leftovers() == []

    async def test_one_that_sleeps_is_not_dead_however_long(self, launcher: Launcher, model: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="arena-") as directory:
            subject = VllmSubject(launcher, model, Path(directory), progress_stall_s=0.01)
            await subject.engine.load()
            await subject.engine.sleep(2)
            died = asyncio.create_task(subject.engine.died())
            await asyncio.wait([died], timeout=0.2)
            assert not died.done()
            await subject.engine.stop()
            await died

    async def test_one_that_dies_while_it_wakes_says_how(self, subject: VllmSubject) -> None:
        await subject.engine.load()
        await subject.engine.sleep(1)
        os.kill(subject.member("VLLM::EngineCor"), signal.SIGSTOP)
        waking = asyncio.create_task(subject.engine.wake())
        await asyncio.wait([waking], timeout=0.2)
        await subject.kill("leader")
        with pytest.raises(EngineError, match=r"^waking: /wake_up: .+: .+ (died|SIGKILL)$"):
            await asyncio.wait_for(waking, 30)
        assert subject.engine.pid is not None

    async def test_a_known_cache_size_is_taken_and_a_measured_one_told(self, subject: VllmSubject) -> None:
        subject.own_cache_size = False
        subject.fraction = 0.15  # of this, what the processes themselves take is no room for the cache
        await subject.engine.load()
        measured = subject.engine.facts.kv_cache_bytes
        assert measured is not None
        assert measured > 0
        await subject.engine.stop()
        await subject.engine.load(kv_cache_bytes=96 << 20)
        assert any("Explicitly set (0.09/" in line for line in subject.engine.log_tail)
        assert subject.engine.facts.kv_cache_bytes is None

    async def test_a_lack_of_memory_is_told_apart(self, subject: VllmSubject) -> None:
        subject.own_cache_size = False
        subject.fraction = 0.001
        with pytest.raises(EngineError, match=r"Available memory on node") as failed:
            await subject.engine.load()
        assert failed.value.out_of_memory

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
