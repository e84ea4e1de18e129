"""How vLLM's own server is started with an engine's command line."""

from __future__ import annotations

from pathlib import Path

from arena_server.config_model import ModelConfig
from arena_server.engine.command import engine_command
from bench.vllm_server import on_port


def test_on_tcp_it_has_the_engines_arguments_but_for_the_socket() -> None:
    config = ModelConfig.model_validate({"model": "org/a", "gpu_memory_utilization": 0.4})
    argv = engine_command("a", config, (0,), Path("/tmp/a"), gpu=True).argv
    there = on_port(argv, 8001)
    assert set(argv) - set(there) == {"--uds=/tmp/a/http.sock"}
    assert set(there) - set(argv) == {"--host=127.0.0.1", "--port=8001"}
