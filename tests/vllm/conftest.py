"""Real vLLM on the CPU: one daemon for the tests that leave it as it was, and a maker of others."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena_server.demo.models import DemoModel, make_demo_models
from tests.vllm.daemon import Daemon, model_config


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            if importlib.util.find_spec("vllm") is None:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed (scripts/setup)"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DemoModel]:
    """The three demo models, by name."""
    made = make_demo_models(tmp_path_factory.mktemp("models"), report=print)
    return {m.name: m for m in made}


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="arena-") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def daemon(models: dict[str, DemoModel]) -> Iterator[Daemon]:
    """A daemon over the three models, with room for two. Tests that want it otherwise have it `lent`."""
    configured = {name: model_config(m.path) for name, m in models.items()}
    configured["tiny-llama"]["aliases"] = ["gpt-4o", "meta/llama"]
    configured["tiny-llama"]["engine_args"] |= {"enable-auto-tool-choice": True, "tool-call-parser": "hermes"}
    with (
        tempfile.TemporaryDirectory(prefix="arena-") as path,
        Daemon(Path(path), configured, pool={"max_awake_models": 2}) as running,
    ):
        yield running
