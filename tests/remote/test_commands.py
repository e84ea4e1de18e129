"""What the commands say of remote models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arena_server.cli import main
from arena_server.config import load_config
from arena_server.config_devices import check_devices
from arena_server.console.status import Scene, screen
from tests.support.fake_probe import FakeProbe
from tests.test_cli import arena_server
from tests.test_console_daemon import model_json
from tests.test_console_daemon import picture as picture_of

FAR = 'far: {model: org/there, backend_url: "https://far.example/v1", api_key_env: FAR_KEY}'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FAR_KEY", raising=False)
    path = tmp_path / "arena.yaml"
    path.write_text(f"state_dir: {tmp_path}\nmodels:\n  {FAR}\n")
    return path


def test_check_config_shows_it_and_mentions_a_key_that_is_not_there(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["check-config", str(file)]) == 0
    line = "far: org/there, remote: https://far.example/v1"
    assert capsys.readouterr().out.splitlines()[0] == f"{line} (FAR_KEY is not set here: the daemon needs it)"
    monkeypatch.setenv("FAR_KEY", "sk-far")
    assert main(["check-config", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == line


def test_serve_says_which_key_is_missing(file: Path) -> None:
    file.write_text(f"server: {{port: 0}}\n{file.read_text()}")
    done = arena_server("serve", "--config", file)
    what = "the environment variable FAR_KEY is not set (it has to hold the API key for https://far.example/v1)"
    assert (done.returncode, done.stderr) == (2, f"arena-server: {file}: models.far.api_key_env: {what}\n")


def test_plan_passes_it_over_and_says_so(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", str(file), "--gpu", "48GiB"]) == 0
    assert capsys.readouterr().out == "far: remote, and so takes nothing here\n"
    assert main(["plan", "--config", str(file), "--gpu", "48GiB", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["remote"], shown["models"]) == (["far"], {})


def test_pull_has_nothing_to_fetch(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "--config", str(file), "far"]) == 0
    assert capsys.readouterr().out == "far: on another server, nothing to fetch (https://far.example/v1)\n"


def test_status_shows_it_as_remote_in_place_of_memory() -> None:
    shown = picture_of(model_json("near", "awake", gib=3), model_json("far", "awake", remote=True))
    drawn = [line.plain for line in screen(Scene("http://127.0.0.1:8000", shown, ()), 100, None)]
    (far,) = [line for line in drawn if line.startswith("  far ")]
    (near,) = [line for line in drawn if line.startswith("  near ")]
    assert "remote" in far.split()
    assert "remote" not in near


def test_a_file_with_both_kinds_is_good(file: Path) -> None:
    file.write_text(f"models:\n  {FAR}\n  near: {{model: org/near, fallback: [far]}}\n")
    assert check_devices(load_config(file), FakeProbe().devices) == {"far": (), "near": (0,)}
