"""The trees themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.tree import Tree

pytestmark = pytest.mark.timeout(600)  # before the first one the tree is made


def test_two_trees_do_not_touch_each_other_and_one_that_ends_leaves_nothing(tree: Tree, tmp_path: Path) -> None:
    other = Tree.make(tmp_path / "other")
    try:
        other.boot()
        units = [sorted(line for t in (tree, other) for line in t.run("systemctl", "is-system-running").stdout.split())]
        assert units == [["running", "running"]]
        other.write("/etc/note", "of the other\n")
        assert other.run("cat", "/etc/note").stdout == "of the other\n"
        assert tree.run("cat", "/etc/note", check=False).returncode == 1
        with pytest.raises(AssertionError, match="status 3\nsaid"):
            other.run("sh", "-c", "echo said; exit 3")
        with pytest.raises(AssertionError, match="took over 0"):
            other.run("sleep", "60", timeout_s=0.2)
        assert "sleep" not in other.run("sh", "-c", "cat /proc/[0-9]*/cmdline").stdout  # a zombie has none
        processes = other.processes()
        assert len(processes) > 2
    finally:
        other.power_off()
    assert [pid for pid in processes if os.path.exists(f"/proc/{pid}")] == []
    assert list(tmp_path.iterdir()) == []
    assert tree.run("systemctl", "is-active", "dbus").stdout == "active\n"
