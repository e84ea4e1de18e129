"""The documents agree with the code."""

from __future__ import annotations

from pathlib import Path

from arena_server.api.inference import INFERENCE_PATHS
from arena_server.config import ArenaConfig, Config, PoolConfig, ServerConfig, TracingConfig
from arena_server.config_model import ModelConfig
from arena_server.pool.residency import diagram

ROOT = Path(__file__).parent.parent


def test_the_diagram_in_the_design_is_the_table() -> None:
    assert f"```mermaid\n{diagram()}\n```" in (ROOT / "docs/design.md").read_text()


def test_the_readme_names_every_route() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [path for path in INFERENCE_PATHS if f"`{path}`" not in readme and f" {path}`" not in readme] == []


def test_every_key_of_the_configuration_is_explained() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    sections = (Config, ServerConfig, PoolConfig, ArenaConfig, TracingConfig, ModelConfig)
    keys = [key for section in sections for key in section.model_fields]
    assert [key for key in keys if f"| `{key}` |" not in text and f"## `{key}" not in text] == []
