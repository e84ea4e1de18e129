"""The GPU benchmark and what it stands on, as far as that needs no GPU."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from arena_server.devices import DeviceInfo
from arena_server.engine.base import LoadFacts
from arena_server.engine.launcher import Launcher
from arena_server.gpu.probe import HostProbe
from bench import gpu_setup, gpu_swap
from bench.gpu_setup import DEMO, NAMES, Setup, Subject, default_size, make_setup, why_no_gpu
from bench.gpu_swap import Engines
from bench.processes import BenchError
from tests.gpu.swap_figures import BYTES, GIB, HOST, seconds_of, swap_of
from tests.support.fake_engine import FakeEngine
from tests.support.fake_probe import TOTAL_BYTES, FakeProbe
from tests.support.simulated_memory import SimulatedMemory

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU: it would run for minutes")
async def test_without_a_gpu_it_says_why_and_ends_well() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.gpu_swap", "--json"), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    said, last = output.decode().splitlines()
    assert "no NVIDIA GPU" in said
    assert json.loads(last) == {"bench": "gpu_swap", "skipped": why_no_gpu()}


def figures(wake_s: list[float], *, dry_run: bool = False) -> dict[str, object]:
    swaps = {level: swap_of(1.0) for level in ("0", "1", "2")}
    return {"dry_run": dry_run, "size": "1b", "seconds": seconds_of(wake_s), "bytes": BYTES, "swap_s": swaps}


def test_it_is_judged_by_the_medians_and_a_dry_run_meets_nothing() -> None:
    good = gpu_swap.report(HOST, figures([1.0, 2.0, 9.0]))
    assert good.met
    assert good.figures["ratios"]["wake_1"] == 20
    assert any("1,024 MiB" in line for line in good.lines)
    assert any("not measured" in line for line in good.lines)
    assert not gpu_swap.report(HOST, figures([1.0, 2.1, 9.0])).met
    dry = gpu_swap.report(HOST, figures([1.0], dry_run=True))
    assert not dry.met
    assert dry.goal == f"{good.goal} (of a GPU: a dry run cannot meet it)"


def test_without_the_engines_nothing_is_met() -> None:
    swaps = {name: value for name, value in figures([1.0]).items() if name not in ("seconds", "bytes")}
    found = gpu_swap.report(HOST, swaps)
    assert not found.met
    assert "not measured with --only swaps" in found.goal
    assert sum("clients on the other" in line for line in found.lines) == 3
    engines = gpu_swap.report(HOST, {**figures([1.0]), "swap_s": {}})
    assert engines.met
    assert not any("Swaps" in line for line in engines.lines)


def test_without_make_model_the_demo_models_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tokenizers", reason="vLLM's libraries write the models (scripts/setup)")
    monkeypatch.setattr(gpu_setup, "MODEL_MAKERS", ())
    setup = make_setup(tmp_path)
    assert setup.size == DEMO
    assert list(setup.models) == list(NAMES)
    assert all((path / "config.json").exists() for path in setup.models.values())
    with pytest.raises(BenchError, match=r"no make_model\.py for a model of size 8b"):
        make_setup(tmp_path, "8b")


def test_two_large_models_are_taken_where_they_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sized(FakeProbe):
        gpu = True

        def __init__(self, total_bytes: int) -> None:
            super().__init__()
            self.devices = (DeviceInfo(index=0, name="a GPU", total_bytes=total_bytes),)

    room = SimpleNamespace(ram=128 * GIB, disk=60 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=room.ram))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room.disk))
    assert default_size(Sized(140 * GIB), tmp_path / "models") == "8b"
    assert default_size(Sized(24 * GIB), tmp_path / "models") == "1b"
    room.disk = 30 * GIB
    assert default_size(Sized(140 * GIB), tmp_path / "models") == "1b"
    (tmp_path / "models/one-8b").mkdir()
    assert default_size(Sized(140 * GIB), tmp_path / "models") == "8b"  # they are there
    room.ram = 64 * GIB
    assert default_size(Sized(140 * GIB), tmp_path / "models") == "1b"
    assert default_size(HostProbe(), tmp_path) == "tiny"


class OneGpu(FakeProbe):
    """A GPU that is not there, and lists its processes if it is told whose memory that is."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = SimulatedMemory({0: TOTAL_BYTES})
        self.listed: FakeEngine | None = None

    def used_bytes(self, index: int) -> int:
        return self.memory.used_bytes(index)

    def processes(self, index: int) -> dict[int, int] | None:
        engine = self.listed
        return None if engine is None else dict.fromkeys(engine.pids, self.memory.taken(engine.name, index))


@pytest.mark.parametrize("listed", [True, False])
async def test_an_engine_is_measured_at_every_step(
    listed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = OneGpu()
    setup = Setup(probe, dict.fromkeys(NAMES, tmp_path / "model"), "1b")
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        subject = Subject(setup, "one", Launcher("fork", {}), Path(directory))
        engine = FakeEngine("one", Path(directory, "one"), probe.memory, awake_bytes=50 * GIB, asleep_bytes=GIB)
        engine.facts = replace(LoadFacts(), weights_bytes=2 * GIB)
        probe.listed = engine if listed else None
        monkeypatch.setattr(subject, "engine", engine)
        engines = Engines(subject)
        await engines.arena()
        await engine.stop()
    assert engine.sleep_levels == [1, 2]
    assert {name: len(values) for name, values in engines.seconds.items()} == dict.fromkeys(
        ("load", "sleep_1", "wake_1", "first_token_1", "sleep_2", "wake_2", "first_token_2"), 1
    )
    assert engines.bytes == {
        "load_peak": 50 * GIB, "awake": 50 * GIB, "weights": 2 * GIB, "asleep_1": GIB, "asleep_2": GIB,
    }  # fmt: skip
    assert probe.used_bytes(0) == 0
    assert subject.listed_bytes is None


async def test_an_answer_that_changed_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = OneGpu()
    setup = Setup(probe, dict.fromkeys(NAMES, tmp_path / "model"), "1b")
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        subject = Subject(setup, "one", Launcher("fork", {}), Path(directory))
        engine = FakeEngine("one", Path(directory, "one"), probe.memory, awake_bytes=GIB)
        monkeypatch.setattr(subject, "engine", engine)
        answers = iter(["the sea", "garbage"])

        async def greedy() -> str:
            return next(answers)

        monkeypatch.setattr(subject, "greedy", greedy)
        with pytest.raises(BenchError, match="after sleep 1 it answers 'garbage', before it was 'the sea'"):
            await Engines(subject).arena()
    assert engine.stops == 1
