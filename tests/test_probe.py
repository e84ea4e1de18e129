# ruff: noqa: N802 (the names are pynvml's)
"""What NVML says of the devices, played by a stand-in for pynvml with its names, structures and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from arena_server.devices import DeviceInfo
from arena_server.gpu.probe import (
    DriverFailed,
    HostProbe,
    MemoryProbe,
    NvmlProbe,
    ProbeError,
    Telemetry,
    open_probe,
)

GIB = 1 << 30
NOT_AVAILABLE = pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value


def process(pid: int, bytes_: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=bytes_)


class FakeNvml:
    """Two GPUs; their handles are their indices. A list of processes may be an error, which is then raised."""

    NVMLError = pynvml.NVMLError
    NVMLLibraryMismatchError = pynvml.NVMLLibraryMismatchError
    NVML_ERROR_LIBRARY_NOT_FOUND = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    NVML_ERROR_DRIVER_NOT_LOADED = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    NVML_ERROR_NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
    NVML_ERROR_NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, compute: Any = (), graphics: Any = ()) -> None:
        self.compute = compute
        self.graphics = graphics
        self.memory_error: int | None = None
        self.init_error: int | None = None
        self.unsupported: set[str] = set()  # questions that the card does not answer

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}{handle}{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"NVIDIA H{handle}00"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        if self.memory_error is not None:
            raise pynvml.NVMLError(self.memory_error)
        return SimpleNamespace(total=(handle + 1) * 80 * GIB, used=(handle + 1) * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:
        return self._listed(self.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> Any:
        return self._listed(self.graphics)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        self._support("utilization")
        return SimpleNamespace(gpu=87, memory=34)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        self._support("power")
        return 312_500

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        self._support("limit")
        return 700_000

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        self._support("temperature")
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return 61

    def _support(self, question: str) -> None:
        if question in self.unsupported:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    @staticmethod
    def _listed(answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


def test_the_stand_in_has_nothing_that_pynvml_lacks() -> None:
    assert [name for name in dir(FakeNvml) if name.startswith(("nvml", "NVML")) and not hasattr(pynvml, name)] == []


@pytest.mark.parametrize(
    ("visible", "indices"),
    [(None, [0, 1]), ("1", [1]), ("0,1", [0, 1]), ("GPU-11", [1]), ("GPU-000,1", [0, 1]), ("", []), ("11", [])],
)
def test_devices_are_those_that_cuda_sees(visible: str | None, indices: list[int]) -> None:
    probe = NvmlProbe(FakeNvml(), visible)
    assert [d.index for d in probe.devices] == indices


def test_a_device_is_told_of_as_nvml_does() -> None:
    probe = NvmlProbe(FakeNvml(), None)
    assert probe.devices[1] == DeviceInfo(index=1, name="NVIDIA H100", total_bytes=160 * GIB)
    assert probe.used_bytes(1) == 2 * GIB


def test_a_lost_device_is_a_probe_error_with_the_drivers_reason() -> None:
    nvml = FakeNvml(compute=pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST))
    probe = NvmlProbe(nvml, None)
    nvml.memory_error = pynvml.NVML_ERROR_GPU_IS_LOST
    questions: list[Callable[[int], object]] = [probe.used_bytes, probe.processes]
    for ask in questions:
        with pytest.raises(ProbeError, match=str(pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST))):
            ask(0)


def test_processes_that_compute_and_that_draw_are_one_list() -> None:
    nvml = FakeNvml(compute=[process(1, 10), process(2, 20)], graphics=[process(3, 30)])
    assert NvmlProbe(nvml, None).processes(0) == {1: 10, 2: 20, 3: 30}


def test_a_process_in_both_lists_counts_once() -> None:
    nvml = FakeNvml(compute=[process(1, 10)], graphics=[process(1, 12)])
    assert NvmlProbe(nvml, None).processes(0) == {1: 12}


def test_a_process_with_two_instances_of_a_device_has_their_sum() -> None:
    assert NvmlProbe(FakeNvml(compute=[process(1, 10), process(1, 5)]), None).processes(0) == {1: 15}


def test_a_device_without_processes_has_an_empty_list() -> None:
    assert NvmlProbe(FakeNvml(), None).processes(0) == {}


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param([process(1, 10), process(2, None)], id="MIG, as pynvml puts it"),
        pytest.param([process(1, NOT_AVAILABLE)], id="MIG, as NVML does"),
        pytest.param(pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED), id="WSL"),
        pytest.param(pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION), id="hardened container"),
        pytest.param(pynvml.NVMLLibraryMismatchError("old"), id="old driver"),
    ],
)
def test_processes_may_not_be_given(compute: object) -> None:
    assert NvmlProbe(FakeNvml(compute=compute), None).processes(0) is None


def test_a_device_that_cannot_draw_still_lists_who_computes() -> None:
    nvml = FakeNvml(compute=[process(1, 10)], graphics=pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED))
    assert NvmlProbe(nvml, None).processes(0) == {1: 10}


def test_a_device_tells_how_it_is_in_base_units() -> None:
    assert NvmlProbe(FakeNvml(), None).telemetry(1) == Telemetry(0.87, 0.34, 312.5, 700.0, 61.0)


@pytest.mark.parametrize(
    ("unsupported", "told"),
    [
        ("utilization", Telemetry(None, None, 312.5, 700.0, 61.0)),
        ("power", Telemetry(0.87, 0.34, None, 700.0, 61.0)),
        ("limit", Telemetry(0.87, 0.34, 312.5, None, 61.0)),
        ("temperature", Telemetry(0.87, 0.34, 312.5, 700.0, None)),
    ],
)
def test_what_a_card_does_not_tell_is_left_out_and_the_rest_is_told(unsupported: str, told: Telemetry) -> None:
    nvml = FakeNvml()
    nvml.unsupported = {unsupported}
    assert NvmlProbe(nvml, None).telemetry(0) == told


NO_LIBRARY, NOT_LOADED = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED
MISMATCH = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH  # after an upgrade of the driver, until the host is booted


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


@pytest.mark.parametrize(("error", "loaded"), [(MISMATCH, True), (MISMATCH, False), (NO_LIBRARY, True)])
def test_a_driver_that_fails_is_not_taken_for_a_machine_without_gpus(
    error: int, loaded: bool, visible: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvml, driver = FakeNvml(), tmp_path / "version"
    nvml.init_error = error
    if loaded:
        driver.touch()
    with pytest.raises(DriverFailed, match=r"cannot be asked: .*nvidia-smi"):
        open_probe(nvml, driver)
    visible.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not open_probe(nvml, driver).gpu


@pytest.mark.parametrize(("error", "warnings"), [(NO_LIBRARY, 0), (NOT_LOADED, 1)])
def test_without_a_driver_it_is_host_ram(
    error: int, warnings: int, visible: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nvml = FakeNvml()
    nvml.init_error = error
    assert not open_probe(nvml, tmp_path / "version").gpu
    assert len(caplog.records) == warnings


def test_with_one_it_is_nvmls_view(visible: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert open_probe(FakeNvml(), tmp_path / "version").gpu
    visible.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert not open_probe(FakeNvml(), tmp_path / "version").gpu


def test_host_ram_has_no_list() -> None:
    probe: MemoryProbe = HostProbe()
    assert probe.processes(0) is None
    assert 0 < probe.used_bytes(0) < probe.devices[0].total_bytes
