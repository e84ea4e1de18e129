"""The demo as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_demo_checks_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "arena_server", "demo", "--check", "--port", "0", "--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "OK"
    assert any("was evicted to make room for tiny-qwen" in line for line in lines)
