"""The command line, as a process."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

GOOD = "models: {a: {model: some/model, gpu_memory_utilization: 0.1}}\n"


def arena_server(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "arena_server", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", [("check-config",), ("serve", "--config")])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("models: {a: {modle: x}}\n", "models.a.modle: unknown key (did you mean `model`?)"),
        (
            "models: {a: {model: x/y, gpu_memory_utilization: 0.99}}\n",
            "models.a.gpu_memory_utilization: 0.99 is over the device's budget of 0.95 (1 - pool.memory_reserve 0.05)",
        ),
        ("models: {a: {model: x/y, aliases: [b]}, b: {model: x/y}}\n", "models.a.aliases.0: "),
    ],
)
def test_a_wrong_configuration_is_one_line_and_status_2(
    tmp_path: Path, command: tuple[str, ...], text: str, fault: str
) -> None:
    config = tmp_path / "arena.yaml"
    config.write_text(text)
    done = arena_server(*command, config)
    assert done.returncode == 2
    assert done.stdout == ""
    assert any(line.startswith(f"arena-server: {config}: {fault}") for line in done.stderr.splitlines()), done.stderr
    assert "Traceback" not in done.stderr
    assert "Loading" not in done.stderr


def test_check_config_says_where_each_model_goes(tmp_path: Path) -> None:
    config = tmp_path / "arena.yaml"
    config.write_text(GOOD)
    done = arena_server("check-config", config)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"a: some/model, 0.1 of device 0\n{config}: OK, 1 models\n"


def test_a_taken_port_is_one_line_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = tmp_path / "arena.yaml"
        config.write_text(f"server: {{port: {port}}}\nrun_dir: {tmp_path}/run\n{GOOD}")
        done = arena_server("serve", "--config", config)
    assert done.returncode == 1  # and not 2, after which systemd does not try again
    assert done.stderr.splitlines()[-1] == (
        f"arena-server: {config}: server: cannot listen on 127.0.0.1:{port}: Address already in use"
    )
    assert not (tmp_path / "run").exists()


def test_the_daemon_imports_neither_torch_nor_vllm_and_starts_quickly() -> None:
    unwanted = {"torch", "vllm", "transformers", "numpy"}
    code = f"import sys, arena_server.serve; print(sorted({unwanted} & set(sys.modules)))"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
    # Not a benchmark: a guard against an import of many seconds, such as vLLM's.
    assert time.monotonic() - began < 10


def test_a_missing_command_shows_the_commands() -> None:
    done = arena_server()
    assert done.returncode == 2
    assert "COMMAND" in done.stderr
