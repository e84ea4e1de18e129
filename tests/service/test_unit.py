"""The unit as systemd reads it. That it works is shown in `tests/host`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from arena_server.config import ServerConfig

SOURCE = Path(__file__).parents[2] / "systemd"
UNIT = SOURCE / "vllm-arena.service"
MOST_EXPOSED = 40  # of 100; `systemd-analyze security` shows a tenth of it

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def analyze(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *argv], capture_output=True, text=True, check=False, timeout=60
    )


def version() -> int:
    found = re.match(r"systemd (\d+)", analyze("--version").stdout)
    assert found is not None
    return int(found.group(1))


def complaints(unit: Path) -> list[str]:
    """What `systemd-analyze verify` says of the unit; of others on this machine it may say what it likes."""
    said = analyze("verify", str(unit))
    return [line for line in (said.stdout + said.stderr).splitlines() if unit.name in line]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The unit on a machine where arena-server is installed, without drop-ins."""
    text = UNIT.read_text()
    assert "/opt/vllm-arena/venv/bin/arena-server" in text
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/vllm-arena/venv/bin/arena-server", "/bin/true"))
    return copy


def test_systemd_has_nothing_to_say_against_it(copy: Path) -> None:
    assert complaints(copy) == []


def test_systemd_would_say_so(copy: Path) -> None:
    copy.write_text(copy.read_text() + "\n[Service]\nNonsense=1\n")
    assert len(complaints(copy)) > 0


def test_the_backoff_is_understood_where_systemd_has_one(copy: Path) -> None:
    shutil.copytree(SOURCE / f"{UNIT.name}.d", copy.with_name(f"{UNIT.name}.d"))
    unknown = {"RestartSteps", "RestartMaxDelaySec"} if version() < 254 else set()  # set-up looks at the version, too
    said = complaints(copy)
    assert {key for line in said for key in unknown if f"'{key}'" in line} == unknown
    assert [line for line in said if not any(f"'{key}'" in line for key in unknown)] == []


def test_it_is_hardened() -> None:
    said = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(UNIT))
    assert said.returncode == 0, said.stdout
    assert analyze("security", "--offline=true", "--threshold=1", str(UNIT)).returncode != 0


def test_answers_get_their_grace_before_systemd_loses_patience() -> None:
    minutes = re.search(r"^TimeoutStopSec=(\d+)min$", UNIT.read_text(), re.MULTILINE)
    assert minutes is not None
    assert int(minutes.group(1)) * 60 >= ServerConfig().shutdown_grace_s + 20
