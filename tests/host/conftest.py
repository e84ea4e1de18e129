"""A host for these tests: a clean Debian tree under a real systemd."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.setup_run import SetupRun, first_run
from tests.support.tree import Tree, why_not


@pytest.fixture(scope="package")
def tree() -> Iterator[Tree]:
    """Booted, with nothing in it but Debian's base; the checkout is at /src."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="arena-tree-") as directory:
        tree = Tree.make(Path(directory) / "tree")
        try:
            tree.boot()
            yield tree
        finally:
            tree.power_off()


@pytest.fixture(scope="package")
def set_up(tree: Tree) -> SetupRun:
    """The set-up's first run, which has to end well: with the CPU's vLLM and the demo models, on free ports."""
    return first_run(tree)


@pytest.fixture(scope="package")
def installed(set_up: SetupRun) -> Tree:
    """The tree after it: `vllm-arena` and nginx run."""
    assert set_up.done.returncode == 0, set_up.done.stdout + set_up.done.stderr
    return set_up.tree
