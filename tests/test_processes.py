"""The tests' own look at processes."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from tests.support.processes import command_line, lives


def test_a_process_that_nobody_has_waited_for_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = psutil.Process(child.pid)
        assert lives(process)
        assert command_line(process).endswith("input()")
        assert child.stdin is not None
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        ended = (lives(process), command_line(process))
    assert ended == (False, "")
    assert (lives(process), command_line(process)) == (False, "")
