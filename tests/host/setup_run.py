"""The set-up script's real run in a tree, and what it leaves there."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arena_server.demo.daemon import free_port
from tests.support.tree import Tree

ROOT = Path(__file__).parents[2]
# Not the checkout itself, which is bound into the tree: somebody may write in it between the first run and the second.
SOURCE = "/srv/arena-server"
PARTS = ("arena_server", "nginx", "scripts", "systemd", "pyproject.toml", "README.md")
CACHE = "/opt/vllm-arena/cache"  # the script's own place for uv's
LIMIT_S = 500.0


@dataclass(frozen=True, slots=True)
class SetupRun:
    """One run of the set-up with these arguments, and how long it took (s)."""

    tree: Tree
    args: Sequence[str]
    done: subprocess.CompletedProcess[str]
    took_s: float

    def again(self, *args: str) -> SetupRun:
        """Once more, with these arguments alone: it knows those of the first run."""
        return _run(self.tree, args)


def first_run(tree: Tree) -> SetupRun:
    """Run it on a tree that has nothing yet."""
    for part in PARTS:
        tree.copy_in(ROOT / part, f"{SOURCE}/{part}")
    ports: set[int] = set()
    while len(ports) < 3:
        ports.add(free_port(0))  # the network is this machine's
    options = zip(("--port", "--http-port", "--https-port"), map(str, ports), strict=True)
    return _run(tree, ["--engine", "cpu", *(word for option in options for word in option)])


def _run(tree: Tree, args: Sequence[str]) -> SetupRun:
    # Compiling all of PyTorch and vLLM takes a minute here, and saves the service's start a few seconds.
    env = {"UV_CACHE_DIR": _cache(tree), "UV_COMPILE_BYTECODE": "0"}
    start = time.monotonic()
    script = f"{SOURCE}/scripts/setup_vllm_multi_model.sh"
    done = tree.run(script, *args, env=env, timeout_s=LIMIT_S, check=False)
    return SetupRun(tree, args, done, time.monotonic() - start)


def _cache(tree: Tree) -> str:
    """Where uv finds in the tree what it has of packages on this machine: PyTorch and vLLM are 3 GB.

    On one disk with the tree they are lent by hard links, of which uv makes more; a copy would take half a minute.
    To a tree in memory uv copies them, from this machine's own cache, which is bound into every tree.
    """
    bound = os.environ.get("UV_CACHE_DIR") or "/root/.cache/uv"
    own = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache/uv")
    if not own.is_dir():
        return CACHE
    if own.stat().st_dev != tree.directory.stat().st_dev:
        return bound
    # By the tree's path here: the same disk seen through the tree's own mounts counts as another one for link(2).
    place = tree.place / CACHE[1:]
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["cp", "-al", own, place], check=False, capture_output=True).returncode != 0:
            shutil.rmtree(place)
            return bound
    return CACHE


def listing(tree: Tree) -> dict[str, str]:
    """All that the set-up could have changed: files (owner, mode, size, time, in /etc the contents), units, packages.

    Without caches, and what Python writes when root imports something.
    """
    about = r"%p\t%y %m %U:%G %s %T@ %l\n"
    pruned = ["(", "-path", CACHE, "-o", "-name", "__pycache__", ")", "-prune"]
    files = tree.run("find", "/etc", "/opt/vllm-arena", *pruned, "-o", "-printf", about).stdout
    sums = tree.run("find", "/etc", "-type", "f", "-exec", "sha256sum", "{}", "+").stdout
    properties = "Id,ActiveState,UnitFileState,MainPID,NRestarts,InvocationID,FragmentPath,DropInPaths"
    units = tree.run("systemctl", "show", "vllm-arena", "nginx", f"--property={properties}").stdout
    found = dict(line.split("\t", 1) for line in files.splitlines())
    found |= {f"sum of {name}": value for value, name in (line.split("  ", 1) for line in sums.splitlines())}
    return found | {"units": units, "packages": tree.run("dpkg-query", "-W").stdout}
