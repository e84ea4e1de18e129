"""The set-up beside a daemon that asks for keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts.parts import Host


@pytest.mark.parametrize(
    ("status", "key", "tried"),
    [("200", "", True), ("401", "sk-arena-one", True), ("401", "", False), ("000", "", True)],
)
def test_a_daemon_that_asks_for_a_key_is_not_tried_without_one(
    tmp_path: Path, status: str, key: str, tried: bool
) -> None:
    host = Host.make(tmp_path)
    host.stub("curl", f"printf %s {status}; [ {status} != 000 ]")
    source = host.write("/source/scripts/smoke_test.sh", '#!/bin/bash\necho "tried $1"', 0o755).parents[1]
    done = host.run(f"source_dir={source}; smoke_test; say done", **({"ARENA_API_KEY": key} if key else {}))
    assert done.returncode == 0, done.stderr
    assert ("tried https://127.0.0.1" in done.stdout) == tried
    assert ("note: not tried: the daemon asks for an API key" in done.stdout) != tried
    assert "done" in done.stdout
    assert not key or key not in done.stdout + done.stderr + (host.root / "log").read_text()
