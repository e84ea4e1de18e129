"""`scripts/setup dev`: what it does to the machine while apt works, and how it leaves it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.scripts.run import SCRIPTS

LIMIT_S = 30.0


def checkout(directory: Path, install: str) -> tuple[Path, dict[str, str]]:
    """A copy of the script on a machine that lacks every package, and its environment.

    `install` is what `apt-get install` does there: bash, in the directory.
    """
    text = (SCRIPTS / "setup").read_text().replace("/usr/sbin/policy-rc.d", f"{directory}/policy-rc.d")
    text = text.replace(" /usr/", f" {directory}/nothing/")
    shutil.copytree(SCRIPTS / "lib", directory / "scripts/lib")
    script = directory / "scripts/setup"
    script.write_text(text)
    script.chmod(0o755)
    stubs = directory / "stubs"
    stubs.mkdir()
    apt = f"cd {directory}; case $1 in install) {install} ;; esac"
    for name, code in {"apt-get": apt, "id": "echo 0", "systemctl": "exit 0", "python3": "exit 1"}.items():
        (stubs / name).write_text(f"#!/bin/bash\n{code}\n")
        (stubs / name).chmod(0o755)
    return script, {"PATH": f"{stubs}:{os.environ['PATH']}", "PYTHON": "true"}


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_installation_lets_services_start_again_when_apt_is_through(
    tmp_path: Path, sent: signal.Signals
) -> None:
    install = "touch begun; while [ ! -e go ]; do sleep 0.05; done; ls policy-rc.d >at-its-end; exit 0"
    script, env = checkout(tmp_path, install)
    with subprocess.Popen([script, "dev"], env=env, start_new_session=True, stderr=subprocess.PIPE, text=True) as setup:
        deadline = time.monotonic() + LIMIT_S
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (tmp_path / "policy-rc.d").exists()
        if sent == signal.SIGINT:
            os.killpg(setup.pid, sent)  # as Ctrl-C does
        else:
            setup.send_signal(sent)
        (tmp_path / "go").touch()
        _, said = setup.communicate(timeout=LIMIT_S)
    while not (tmp_path / "at-its-end").exists() or (tmp_path / "policy-rc.d").exists():
        assert time.monotonic() < deadline, said
        time.sleep(0.01)
    assert (tmp_path / "at-its-end").read_text() == "policy-rc.d\n"
    assert setup.returncode not in (0, None)
    assert "Setting up .venv" not in said


def test_a_failed_installation_is_told_and_lets_services_start_again(tmp_path: Path) -> None:
    script, env = checkout(tmp_path, "echo no such package; exit 100")
    done = subprocess.run([script, "dev"], env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert not (tmp_path / "policy-rc.d").exists()
    assert "no such package" in done.stderr
    assert "nginx-light is not installed: the proxy's tests will be skipped" in done.stderr
