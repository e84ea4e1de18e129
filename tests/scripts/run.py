"""Runs a script of this repository as a user does."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"


def run(
    script: str, *args: str, env: Mapping[str, str], cwd: Path = Path("/"), timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `scripts/<script>` from the directory `cwd` with no terminal and exactly this environment."""
    return subprocess.run(
        [SCRIPTS / script, *args],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
