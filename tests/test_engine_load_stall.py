"""A load that neither prints nor reads nor writes is given up; one that does any of these is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from arena_server.engine import process_group
from arena_server.engine.base import EngineError
from arena_server.engine.command import EngineCommand
from arena_server.engine.launcher import EngineProcess, Launcher
from arena_server.engine.load_stall import LEAST_MOVED_BYTES, LoadStall
from arena_server.engine.vllm import VllmEngine
from tests.support.gate import LIMIT_S

STALL_S = 100.0
HUNG_WORKER = "INFO 11-21 10:55:19 [shm_broadcast.py:681] No available shared memory broadcast block found in 60 s"


class Load:
    """A load as its stall is told of it: a clock, and the bytes that its processes moved."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.moved: dict[int, int] = {1: 5 << 30}
        self.stall = LoadStall(STALL_S, lambda: dict(self.moved), self)

    def now(self) -> float:
        return self.time

    def over_after(self, seconds: float) -> bool:
        """Whether it is given up within that time."""
        for _ in range(int(seconds)):
            self.time += 1
            if self.stall.over():
                return True
        return False


def test_a_load_without_any_sign_of_life_is_over() -> None:
    load = Load()
    assert not load.over_after(STALL_S - 1)
    assert load.over_after(3)


def test_a_line_is_a_sign_of_life() -> None:
    load = Load()
    for _ in range(5):
        assert not load.over_after(STALL_S - 1)
        load.stall.printed("Loading weights")
    assert load.over_after(STALL_S + 2)


def test_a_line_that_tells_of_waiting_alone_is_none() -> None:
    load = Load()
    assert not load.over_after(STALL_S - 1)
    load.stall.printed(HUNG_WORKER)
    assert load.over_after(3)


def test_bytes_are_a_sign_of_life_when_they_are_many() -> None:
    load = Load()
    for _ in range(5):
        assert not load.over_after(STALL_S - 1)
        load.moved[1] += LEAST_MOVED_BYTES
        assert not load.over_after(1)
    assert not load.over_after(STALL_S - 2)
    load.moved[1] += LEAST_MOVED_BYTES - 1
    assert load.over_after(4)


def test_few_bytes_at_a_time_add_up() -> None:
    load = Load()
    for _ in range(20):
        load.moved[1] += LEAST_MOVED_BYTES // 4
        assert not load.over_after(STALL_S / 5)


def test_the_end_of_a_process_does_not_hide_what_the_others_move() -> None:
    load = Load()
    assert not load.over_after(STALL_S - 1)
    load.moved = {2: LEAST_MOVED_BYTES}
    assert not load.over_after(STALL_S - 1)


def test_a_number_that_another_process_gets_hides_nothing() -> None:
    load = Load()
    assert not load.over_after(STALL_S - 2)
    load.moved = {1: 0}
    assert not load.over_after(1)
    load.moved[1] += LEAST_MOVED_BYTES
    assert not load.over_after(STALL_S - 1)


def test_a_pause_of_the_daemon_is_not_the_loads() -> None:
    load = Load()
    load.over_after(1)
    load.time += 10 * STALL_S
    assert not load.stall.over()


class Shell(Launcher):
    """Launches a shell command in place of vLLM."""

    def __init__(self, script: str) -> None:
        super().__init__("spawn", {})
        self._script = script

    async def launch(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], log_fd: int, *, fresh: bool = False
    ) -> EngineProcess:
        loop = asyncio.get_running_loop()
        # Its start is not part of what is timed: on a busy machine that takes long.
        script = f"echo started; exec 1>&2; {self._script}"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", script, stdout=pipe, stderr=log_fd, start_new_session=True
        )
        assert process.stdout is not None
        await process.stdout.readline()
        engine = EngineProcess(1, loop.create_future(), loop.create_future())
        engine.started.set_result(process.pid)
        self.end = asyncio.create_task(self._tell_end(process, engine))
        return engine

    def kill(self, engine: EngineProcess) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(engine.pid, signal.SIGKILL)

    async def _tell_end(self, process: asyncio.subprocess.Process, engine: EngineProcess) -> None:
        engine.exited.set_result(await process.wait())


@contextlib.asynccontextmanager
async def standing_in(script: str, load_timeout_s: float = 60) -> AsyncIterator[VllmEngine]:
    """An engine that runs this script in place of vLLM."""
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        launcher = Shell(script)
        command = EngineCommand("org/model", (), {}, fresh=False)
        path = Path(directory) / "1"
        engine = VllmEngine("stand-in", launcher, path, lambda _: command, load_timeout_s, load_stall_s=0.5)
        try:
            yield engine
        finally:
            await engine.stop()
            await launcher.end
        assert engine.pids == frozenset()
        assert not path.exists()


async def test_a_load_that_stands_still_is_given_up_with_its_last_lines() -> None:
    lines = "one", "two", "(Worker pid=3) INFO 11-21 10:55:19 [x.py:1] Starting to load model org/model...", "four"
    script = "".join(f"echo '{line}'; " for line in lines) + "sleep 1000"
    async with standing_in(script) as engine:
        with pytest.raises(EngineError) as failed:
            await asyncio.wait_for(engine.load(), LIMIT_S)
        assert str(failed.value) == (
            "no sign of progress for 0.5 s (pool.load_stall_s); it was loading weights; last lines: "
            + " | ".join(lines[1:])
        )
        assert not failed.value.out_of_memory
        assert engine.pids


async def test_a_load_that_prints_nothing_at_all_is_given_up() -> None:
    async with standing_in("exec sleep 1000") as engine:
        with pytest.raises(EngineError, match=r"it was starting; last lines: none$"):
            await asyncio.wait_for(engine.load(), LIMIT_S)


async def test_a_load_that_spins_is_given_up_too() -> None:
    async with standing_in("while :; do :; done") as engine:
        with pytest.raises(EngineError, match=r"^no sign of progress for 0\.5 s"):
            await asyncio.wait_for(engine.load(), LIMIT_S)


@pytest.mark.parametrize(
    "script", ["exec cat /dev/zero > /dev/null", "while :; do echo line; sleep 0.05; done"], ids=["reads", "prints"]
)
async def test_a_load_that_is_at_work_is_left_its_time(script: str) -> None:
    async with standing_in(script, load_timeout_s=1.5) as engine:
        with pytest.raises(EngineError, match=r"^not ready after 1\.5 s \(pool\.load_timeout_s\); it was starting$"):
            await asyncio.wait_for(engine.load(), LIMIT_S)


async def test_a_lack_of_memory_is_told_with_the_failure() -> None:
    text = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    async with standing_in(f"echo '{text}'; exit 1") as engine:
        with pytest.raises(EngineError) as failed:
            await asyncio.wait_for(engine.load(), LIMIT_S)
        assert str(failed.value) == text
        assert failed.value.out_of_memory


async def test_what_was_said_of_memory_is_kept_also_of_a_load_that_fails() -> None:
    async with standing_in("echo 'Model loading took 1.5 GiB memory'; exit 1") as engine:
        with pytest.raises(EngineError) as failed:
            await asyncio.wait_for(engine.load(), LIMIT_S)
        assert not failed.value.out_of_memory
        assert engine.facts.weights_bytes == (1 << 30) * 155 // 100 + 1
        assert engine.facts.kv_cache_bytes is None


async def test_the_bytes_a_group_moves_are_counted() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe, start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    size = 1 << 20
    process.stdin.write(bytes(size))
    await process.stdout.readexactly(size)
    moved = process_group.moved_bytes(process.pid)
    assert set(moved) == {process.pid}
    assert 2 * size <= moved[process.pid] < 3 * size
    process.stdin.close()
    await process.wait()
    assert process_group.moved_bytes(process.pid) == {}
