"""What an engine is started with for its sleep and its KV cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from arena_server.config_model import ModelConfig
from arena_server.engine.command import EngineCommand, engine_command, sleep_level, with_kv_cache


def model(**keys: Any) -> ModelConfig:
    return ModelConfig.model_validate({"model": "org/a", **keys})


def command(*, gpu: bool, **keys: Any) -> EngineCommand:
    return engine_command("a", model(**keys), (0,), Path("/run/1"), gpu=gpu)


@pytest.mark.parametrize(
    ("configured", "gpu", "level"),
    [
        ("auto", True, 1),
        ("auto", False, 0),
        *((level, gpu, level) for level in (0, 1, 2) for gpu in (True, False)),
    ],
)
def test_auto_sleeps_where_the_gpu_can(configured: Any, gpu: bool, level: int) -> None:
    assert sleep_level(model(sleep_level=configured), gpu=gpu) == level


@pytest.mark.parametrize(
    ("configured", "gpu", "routes", "flag"),
    [
        ("auto", True, True, True),
        (2, True, True, True),
        (0, True, False, False),
        ("auto", False, False, False),
        (1, False, True, False),
    ],
)
def test_who_sleeps_gets_the_routes_and_on_gpus_the_flag(configured: Any, gpu: bool, routes: bool, flag: bool) -> None:
    made = command(gpu=gpu, sleep_level=configured)
    assert (made.env.get("VLLM_SERVER_DEV_MODE") == "1") is routes
    assert ("--enable-sleep-mode" in made.argv) is flag
    assert not made.fresh


def test_a_known_cache_size_is_passed_on_beside_the_fraction() -> None:
    made = with_kv_cache(command(gpu=True, gpu_memory_utilization=0.3), 5 << 30)
    assert made.argv[-1] == f"--kv-cache-memory-bytes={5 << 30}"
    assert "--gpu-memory-utilization=0.3" in made.argv


def test_the_models_own_cache_size_has_precedence() -> None:
    made = command(gpu=True, engine_args={"kv_cache_memory_bytes": 1 << 30})
    assert with_kv_cache(made, 5 << 30) == made


def test_an_unknown_cache_size_changes_nothing() -> None:
    made = command(gpu=True)
    assert with_kv_cache(made, None) == made
