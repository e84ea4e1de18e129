"""What is done ahead of engines, or kept from them, as far as that can be told without vLLM."""

from __future__ import annotations

import logging
import os

import pytest

from arena_server.engine import preloaded
from arena_server.engine.vllm_server import _replace_kernels_once, keep_logging

ARGV = ["--model=/m", "--served-model-name", "m", "--disable-uvicorn-access-log", "--enable-log-requests"]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("VLLM_CONFIGURE_LOGGING", "VLLM_LOGGING_CONFIG_PATH"):
        monkeypatch.setenv(name, "")  # so that it is put back, whoever sets it
        monkeypatch.delenv(name)
    monkeypatch.setattr(logging.getLogger("vllm"), "handlers", [logging.NullHandler()])
    return monkeypatch


def test_a_forked_engine_keeps_the_logging_it_was_forked_with(environment: pytest.MonkeyPatch) -> None:
    keep_logging(ARGV, on_cpu=True)
    assert os.environ["VLLM_CONFIGURE_LOGGING"] == "0"


@pytest.mark.parametrize(
    "own", ["--logging-config.formatter=json", "--log-config-file=/f", "--config=/f", "--numa-bind"]
)
def test_a_command_line_with_a_say_in_logging_is_left_its_say(environment: pytest.MonkeyPatch, own: str) -> None:
    keep_logging([*ARGV, own], on_cpu=True)
    assert "VLLM_CONFIGURE_LOGGING" not in os.environ


def test_a_file_that_configures_logging_is_read(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("VLLM_LOGGING_CONFIG_PATH", "/f")  # vLLM refuses it together with VLLM_CONFIGURE_LOGGING=0
    keep_logging(ARGV, on_cpu=True)
    assert "VLLM_CONFIGURE_LOGGING" not in os.environ


def test_where_an_engines_processes_may_be_spawned_each_sets_up_its_own(environment: pytest.MonkeyPatch) -> None:
    keep_logging(ARGV, on_cpu=False)
    assert "VLLM_CONFIGURE_LOGGING" not in os.environ


def test_logging_that_nobody_has_set_up_is_set_up_by_the_engine(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(logging.getLogger("vllm"), "handlers", [])
    keep_logging(ARGV, on_cpu=True)
    assert "VLLM_CONFIGURE_LOGGING" not in os.environ


def test_kernels_are_replaced_once_and_not_again_in_each_worker() -> None:
    calls = []

    class Platform:
        @classmethod
        def register_triton_kernel_overrides(cls) -> None:
            calls.append(cls)

    _replace_kernels_once(Platform)
    assert calls == [Platform]
    Platform.register_triton_kernel_overrides()
    Platform().register_triton_kernel_overrides()
    assert calls == [Platform]


def test_a_platform_without_replacements_is_left_alone() -> None:
    class Platform:
        pass

    _replace_kernels_once(Platform)
    assert not hasattr(Platform, "register_triton_kernel_overrides")


def test_no_module_is_named_twice() -> None:
    named = [*preloaded.EVERYWHERE, *preloaded.ON_CPU, *preloaded.ON_GPU]
    assert len(set(named)) == len(named)
