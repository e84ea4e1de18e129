"""What is read of processes, and of which: the daemon's streams wait meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena_server.engine import process_group


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, up."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        (sys.executable, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def test_members_are_the_living_ones_of_the_group(process: subprocess.Popen[bytes]) -> None:
    (member,) = process_group.members(process.pid)
    assert member.pid == process.pid
    assert member.title == sys.executable
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert os.getpgid(process.pid) == process.pid  # a zombie still has its group
    assert process_group.members(process.pid) == []
    process.wait()
    assert member.title == ""


def test_no_file_of_a_process_outside_of_the_group_is_read(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    read_text = Path.read_text

    def noted(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        read.append(path)
        return read_text(path, encoding, errors)

    monkeypatch.setattr(Path, "read_text", noted)
    process_group.members(process.pid)
    process_group.moved_bytes(process.pid)
    own = Path("/proc", str(process.pid))
    assert read == [own / "stat", own / "stat", own / "io"]
