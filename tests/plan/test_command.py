"""`arena-server plan` as it is called."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arena_server.cli import main
from tests.plan.folders import published_folder

CONFIG = """\
# Three models.
state_dir: ./state
pool: {sleep_memory_bytes: 1000000000000}
models:
  mistral: {model: ./mistral-7b-v0.3, gpu_memory_utilization: 0.3}  # fast
  qwen:    {model: ./qwen2.5-7b, aliases: [q]}
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("command")
    for name in ("mistral-7b-v0.3", "qwen2.5-7b"):
        published_folder(root / name, name)
    return root


@pytest.fixture
def config(folders: Path) -> Path:
    file = folders / "arena.yaml"
    file.write_text(CONFIG)
    return file


def plan(config: Path, *arguments: str) -> int:
    return main(["plan", "--config", str(config), *arguments])


def test_the_plan_in_a_pipe_is_plain_text(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(config, "--gpu", "48GiB") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert "48GiB card, 48.0 GiB" in " ".join(out.split())  # wrapped where the path is long
    assert "  mistral + qwen\n" in out
    assert "models.mistral.gpu_memory_utilization: " in out
    assert config.read_text() == CONFIG  # without --write nothing is


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal(
    columns: int, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert plan(config, "--gpu", "T4") == 1
    out, _ = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= columns
    row = next(line for line in out.splitlines() if line.startswith("mistral"))
    assert "1.01" in row or columns == 40  # what matters most stays
    assert "fails: mistral: does not fit" in out


def test_json_is_all_there_is_on_standard_output(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(config, "--gpu", "80GiB", "--json", "--write") == 0
    out, err = capsys.readouterr()
    found: dict[str, Any] = json.loads(out)
    assert found["works"] is True
    assert found["models"]["mistral"]["kv_token_bytes"] == 131_072
    assert found["models"]["mistral"]["weights"] == {"bytes": 14_496_047_104, "measured": False}
    assert found["models"]["qwen"]["kv_token_bytes"] == 57_344
    assert found["together"] == {"largest_sets": [["mistral", "qwen"]], "pairs": 1, "apart": []}
    assert [change["model"] for change in found["changes"]] == ["mistral", "qwen"]
    assert f"{config}: written (2 changes)" in err


def test_write_changes_the_file_once(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(config, "--gpu", "48GiB", "--write") == 0
    out, _ = capsys.readouterr()
    after = config.read_text()
    assert after.startswith("# Three models.\nstate_dir: ./state\n")
    assert "# fast" in after
    assert "gpu_memory_utilization: 0.3}" not in after
    assert "\n-  mistral:" in out
    assert "\n+  mistral:" in out
    assert out.endswith(f"{config}: written (2 changes)\n")
    assert plan(config, "--gpu", "48GiB", "--write") == 0
    out, _ = capsys.readouterr()
    assert out.endswith(f"{config}: nothing to write\n")
    assert config.read_text() == after


def test_what_works_is_written_though_another_does_not_fit(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG.replace("aliases: [q]", "engine_args: {quantization: fp8, max_model_len: 8192}"))
    assert plan(config, "--gpu", "T4", "--write") == 1
    out, _ = capsys.readouterr()
    assert "fails: mistral: does not fit on this card" in out
    assert out.endswith(f"{config}: written (1 changes); left as they are: mistral (see `fails` above)\n")
    assert "mistral: {model: ./mistral-7b-v0.3, gpu_memory_utilization: 0.3}" in config.read_text()


@pytest.mark.parametrize("arguments", [("--write",), ("--write", "--json"), ()])
def test_nothing_is_written_while_a_model_with_a_share_cannot_work(
    arguments: tuple[str, ...], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = CONFIG.replace("aliases: [q]", "engine_args: {tensor_parallel_size: 3}")
    config.write_text(before)
    assert plan(config, "--gpu", "3x48GiB", *arguments) == 1
    assert config.read_text() == before
    out, err = capsys.readouterr()
    told = " ".join((err if arguments else out).split())
    assert "would be written: qwen cannot work" in told or "nothing was written: qwen cannot work" in told


@pytest.mark.parametrize("arguments", [("--write",), ("--write", "--json"), ()])
def test_nothing_is_written_while_a_model_cannot_be_seen(
    arguments: tuple[str, ...], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others would get its room, and then it could not be awake beside them once it can be seen."""
    before = CONFIG + "  gone: {model: ./gone, gpu_memory_utilization: 0.31}\n"
    config.write_text(before)
    assert plan(config, "--gpu", "80GiB", *arguments) == 1
    out, err = capsys.readouterr()
    assert config.read_text() == before
    assert "written (" not in out + err
    told = " ".join((err if arguments else out).split())
    assert "gone could not be looked at, and what the others get depends on what it needs" in told
    if arguments:
        assert told.startswith(f"arena-server: {config}: nothing was written: ")
    else:
        assert "WITH --write nothing would be written: " in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no GPU on this machine: say which one to plan for, such as --gpu 80GiB or --gpu L4"),
        (("--gpu", "auto"), "no GPU on this machine"),
        (("--gpu", "huge"), "--gpu 'huge': not a size such as 16GiB"),
    ],
)
def test_a_wrong_card_is_status_2(
    arguments: tuple[str, ...],
    says: str,
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # also where there is one
    assert plan(config, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"arena-server: {says}")


def test_a_wrong_configuration_is_status_2(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("models: {a: {modle: x}}\n")
    assert plan(config, "--gpu", "48GiB") == 2
    assert "models.a.modle: unknown key" in capsys.readouterr().err


def test_measurements_that_cannot_be_read_are_said(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = config.parent / "state"
    state.mkdir()
    (state / "measurements.sqlite").write_bytes(b"nonsense" * 100)
    assert plan(config, "--gpu", "48GiB") == 0
    assert "what was measured cannot be read" in capsys.readouterr().err


def test_it_imports_nothing_heavy(config: Path) -> None:
    """A plan for local models needs neither the hub's library nor vLLM's."""
    code = (
        "import sys; from arena_server.cli import main; "
        f"main(['plan', '-c', {str(config)!r}, '--gpu', '48GiB']); "
        "print(sorted({'torch', 'vllm', 'transformers', 'huggingface_hub', 'ruamel.yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
