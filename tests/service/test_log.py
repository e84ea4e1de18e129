"""How the log looks in a file, and in the journal."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arena_server.log import JournalFormatter, is_journal

SAYS = """
import logging
from arena_server.log import set_up_logging
set_up_logging("debug")
logging.getLogger("arena_server").info("Loading %s", "a")
logging.getLogger("uvicorn.error").error("two\\nlines")
logging.getLogger("x").debug("detail")
logging.getLogger("x").warning("careful")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("x").exception("failed")
"""


def stderr_of(file: Path, *argv: str, journal: bool) -> list[str]:
    """What a command writes to its stderr, a file that is said to be the journal or not."""
    with file.open("wb") as stderr:
        there = os.fstat(stderr.fileno())
        stream = f"{there.st_dev}:{there.st_ino if journal else there.st_ino + 1}"
        subprocess.run(argv, stderr=stderr, env={**os.environ, "JOURNAL_STREAM": stream}, check=False, timeout=60)
    return file.read_text().splitlines()


def test_in_the_journal_every_line_has_its_level(tmp_path: Path) -> None:
    lines = stderr_of(tmp_path / "log", sys.executable, "-c", SAYS, journal=True)
    assert lines[:5] == ["<6>Loading a", "<3>two", "<3>lines", "<7>detail", "<4>careful"]
    assert lines[5:7] == ["<3>failed", "<3>Traceback (most recent call last):"]
    assert lines[-1] == "<3>ZeroDivisionError: division by zero"
    assert all(line.startswith("<3>") for line in lines[5:])


def test_elsewhere_lines_have_time_and_level(tmp_path: Path) -> None:
    lines = stderr_of(tmp_path / "log", sys.executable, "-c", SAYS, journal=False)
    assert lines[0].endswith(" INFO    Loading a")
    assert lines[0][:4].isdigit()
    assert not any(line.startswith("<") for line in lines)


@pytest.mark.parametrize("journal", [True, False])
def test_why_a_command_fails_is_an_error(tmp_path: Path, *, journal: bool) -> None:
    command = (sys.executable, "-m", "arena_server", "check-config", str(tmp_path / "none"))
    (line,) = stderr_of(tmp_path / "log", *command, journal=journal)
    assert line.startswith("<3>arena-server: " if journal else "arena-server: ")


def test_blank_lines_are_left_out() -> None:
    record = logging.LogRecord("x", logging.CRITICAL, "x.py", 1, "a\n\n  b\n", None, None)
    assert JournalFormatter().format(record) == "<2>a\n<2>  b"


def test_a_stream_without_a_file_is_no_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        there = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
        assert is_journal(stream)
    assert not is_journal(stream)  # closed
