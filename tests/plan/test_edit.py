"""A configuration is changed in place: what was not meant stays as it is, to the letter."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from arena_server.errors import ConfigError
from arena_server.plan.change import Change, Value
from arena_server.plan.edit import edited
from arena_server.plan.errors import PlanError
from arena_server.plan.write import diff, replace_config

FILE = Path("arena.yaml")
SHARE = ("gpu_memory_utilization",)
LENGTH = ("engine_args", "max_model_len")

LAID_OUT = """\
# The arena of the ground floor.
server: {host: 127.0.0.1,  port: 8000}   # behind nginx

models:
    # Meta's
    llama:   {model: org/llama, gpu_memory_utilization: 0.3}   # measured in May
    mistral:
        model:  "org/mistral"   # v0.3

        engine_args:
            enforce-eager:   true
            max-model-len: 4096  # short
        aliases:
        -  small
        -  'other'
    qwen:    {model: org/qwen}
# the end
"""


def change(name: str, where: tuple[str, ...], value: Value) -> Change:
    return Change(name, where, None, value, "a test")


def test_only_the_lines_that_change_do() -> None:
    wanted = [
        change("llama", SHARE, 0.42),
        change("mistral", SHARE, 0.31),
        change("mistral", LENGTH, 8192),
        change("qwen", LENGTH, 2048),
    ]
    after = edited(LAID_OUT, wanted, FILE)
    models = yaml.safe_load(after)["models"]
    assert models["llama"]["gpu_memory_utilization"] == 0.42
    assert models["mistral"]["gpu_memory_utilization"] == 0.31
    assert models["mistral"]["engine_args"] == {"enforce-eager": True, "max-model-len": 8192}  # no second spelling
    assert models["qwen"] == {"model": "org/qwen", "engine_args": {"max_model_len": 2048}}
    before_lines, after_lines = LAID_OUT.splitlines(), after.splitlines()
    kept = [line for line in before_lines if not line.strip().startswith(("llama:", "qwen:", "max-model-len:"))]
    assert [line for line in after_lines if line in kept] == kept
    assert len(after_lines) == len(before_lines) + 1  # mistral's fraction
    assert "# measured in May" in after
    assert "8192  # short" in after
    shown = diff(FILE, LAID_OUT, after)
    assert len([line for line in shown if line.startswith("+") and not line.startswith("+++")]) == 4


def test_nothing_to_change_changes_nothing() -> None:
    assert edited(LAID_OUT, [], FILE) == LAID_OUT


@pytest.mark.parametrize(
    "text",
    [
        "models: {a: {model: org/a}}\n",
        "models:\n  a:\n    model: org/a",  # no end of line
        "models:\r\n  a:\r\n    model: org/a\r\n",
        '"models": {"a": {"model": "org/a"}}\n',
        "---\nmodels:\n  a: {model: org/a, engine_args: }\n...\n",
        "models:\n  a:\n    model: org/a\n    engine_args:\n",
        "models:\n  a:\n    model: org/a\n    engine_args: {}   # none\n",
        "# ümläut\nmodels:\n\n\n  a:\n    model: org/a\n\n\n    # below\n",
        "models:\n  a:\n    {model: org/a,\n     pinned: true}\n",
    ],
)
def test_every_way_to_write_it(text: str) -> None:
    after = edited(text, [change("a", SHARE, 0.5), change("a", LENGTH, 4096)], FILE)
    found = yaml.safe_load(after)["models"]["a"]
    assert (found["model"], found["gpu_memory_utilization"]) == ("org/a", 0.5)
    assert found["engine_args"] == {"max_model_len": 4096}
    assert after.count("#") == text.count("#")
    if "\r\n" in text:
        assert after.count("\r\n") == after.count("\n")


def test_a_comment_at_the_head_of_a_block_stays() -> None:
    text = "models:\n  a:\n    model: org/a\n    engine_args:\n      # why half: T4\n      dtype: half\n"
    after = edited(text, [change("a", SHARE, 0.5), change("a", LENGTH, 4096)], FILE)
    assert after == (
        "models:\n  a:\n    model: org/a\n    engine_args:\n      # why half: T4\n      dtype: half\n"
        "      max_model_len: 4096\n    gpu_memory_utilization: 0.5\n"
    )


def test_windows_line_ends_stay_also_after_comments() -> None:
    unix = (
        "# head\nmodels:\n  a:  # one\n    model: org/a\n    gpu_memory_utilization: 0.5 # two\n\n"
        "  # three\n  b: {model: org/b}\n"
    )
    first = edited(unix.replace("\n", "\r\n"), [change("a", SHARE, 0.41)], FILE)
    assert first == unix.replace("0.5", "0.41").replace("\n", "\r\n")
    second = edited(first, [change("a", SHARE, 0.42), change("b", SHARE, 0.2)], FILE)
    assert second.replace("\r\n", "\n") == unix.replace("0.5", "0.42").replace(
        "org/b", "org/b, gpu_memory_utilization: 0.2"
    )
    assert second.count("\r\n") == second.count("\n") == second.count("\r")


def test_a_comment_that_would_be_lost_is_no_reason_to_lose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "models:\n  a:\n    model: org/a  # ours\n"
    careless = "models:\n  a:\n    model: org/a\n    gpu_memory_utilization: 0.5\n"
    monkeypatch.setattr("arena_server.plan.edit._round_trips", lambda *_: ("", careless))
    with pytest.raises(PlanError, match=r"a comment would be lost: write these by hand: models\.a\.gpu"):
        edited(text, [change("a", SHARE, 0.5)], FILE)


def test_what_models_share_by_anchors_is_not_changed_for_the_others() -> None:
    text = """\
models:
  a: &a
    model: org/a
    engine_args: &args {enforce_eager: true}   # for both
  b:
    <<: *a
    model: org/b
  c:
    model: org/c
    engine_args: *args
"""
    after = edited(text, [change("b", SHARE, 0.4), change("c", LENGTH, 4096)], FILE)
    models = yaml.safe_load(after)["models"]
    assert models["a"] == {"model": "org/a", "engine_args": {"enforce_eager": True}}
    assert models["b"]["gpu_memory_utilization"] == 0.4
    assert models["b"]["engine_args"] == {"enforce_eager": True}
    assert models["c"]["engine_args"] == {"enforce_eager": True, "max_model_len": 4096}


def test_a_model_that_is_another_ones_alias_is_refused_with_what_to_write() -> None:
    text = "models:\n  a: &a {model: org/a}\n  b: *a\n"
    with pytest.raises(PlanError, match=r"alias.*by hand.*models\.b\.gpu_memory_utilization: 0\.4") as caught:
        edited(text, [change("b", SHARE, 0.4)], FILE)
    assert "\n" not in caught.value.message


def test_a_base_outside_of_the_models() -> None:
    # Refused by the configuration (an unknown key), and yet a form that must not be mangled.
    text = "x: &base {gpu_memory_utilization: 0.2}\nmodels:\n  a:\n    <<: *base\n    model: org/a\n"
    after = edited(text, [change("a", SHARE, 0.4)], FILE)
    assert yaml.safe_load(after)["x"] == {"gpu_memory_utilization": 0.2}
    assert yaml.safe_load(after)["models"]["a"]["gpu_memory_utilization"] == 0.4


def config(directory: Path, text: str = "models: {a: {model: org/a}}\n") -> Path:
    file = directory / "arena.yaml"
    file.write_text(text)
    return file


GOOD = "models: {a: {model: org/a, gpu_memory_utilization: 0.4}}\n"


def test_the_file_keeps_its_mode_and_owner(tmp_path: Path) -> None:
    file = config(tmp_path)
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 0, 12345)
    before = file.stat()
    replace_config(file, file.read_text(), GOOD)
    after = file.stat()
    assert file.read_text() == GOOD
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert [path.name for path in tmp_path.iterdir()] == ["arena.yaml"]


OF_ANOTHER = """
import os, sys
from pathlib import Path
from arena_server.plan.write import replace_config
file = Path(sys.argv[1])
os.umask(0o022)
replace_config(file, file.read_text(), file.read_text())  # its imports, while they can be read
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(replace_config(file, file.read_text(), sys.argv[2]))
"""


def test_a_group_that_one_may_not_give_is_not_kept_and_that_is_said(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may make a file of another group, and become somebody else")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are root's alone
        Path(folder).chmod(0o777)
        file = config(Path(folder))
        os.chown(file, 65534, 12345)
        file.chmod(0o640)
        command = [sys.executable, "-c", OF_ANOTHER, str(file), GOOD]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        assert done.stdout == "its group is now 65534 (was 12345, and only its members and root may keep it so)\n"
        status = file.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65534, 0o640)
        assert file.read_text() == GOOD
        os.chown(file, 0, 65534)
        file.chmod(0o644)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert "belongs to user 0, which only root can leave so (nothing was changed" in done.stderr
        assert (file.stat().st_uid, [path.name for path in file.parent.iterdir()]) == (0, [file.name])


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    there = config(tmp_path / "there")
    link = tmp_path / "arena.yaml"
    link.symlink_to(there)
    replace_config(link, there.read_text(), GOOD)
    assert link.is_symlink()
    assert there.read_text() == GOOD


def test_what_would_be_no_configuration_is_not_written(tmp_path: Path) -> None:
    file = config(tmp_path)
    before = file.read_text()
    with pytest.raises(ConfigError, match="must be at most 1"):
        replace_config(file, before, GOOD.replace("0.4", "4.0"))
    assert file.read_text() == before
    assert len([*tmp_path.iterdir()]) == 1


def test_a_file_that_was_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    file = config(tmp_path)
    with pytest.raises(PlanError, match="was changed meanwhile; nothing was written"):
        replace_config(file, "models: {}\n", GOOD)
    assert file.read_text() == "models: {a: {model: org/a}}\n"
    assert len([*tmp_path.iterdir()]) == 1


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    file = config(tmp_path)
    tmp_path.chmod(0o500)
    with pytest.raises(PlanError, match="cannot be written: Permission denied"):
        replace_config(file, file.read_text(), GOOD)
    tmp_path.chmod(0o700)
