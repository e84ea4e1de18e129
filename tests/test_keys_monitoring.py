"""Prometheus' part of the keys: what the files in deploy/monitoring tell to take in works as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from arena_server.access.key import sha256_of
from tests.support.daemon_app import running_daemon
from tests.support.raw_client import connected

MONITORING = Path(__file__).parent.parent / "deploy" / "monitoring"
KEY = "sk-arena-of-prometheus-alone"


def with_key(name: str, file: Path) -> str:
    """A configuration with the two lines taken in, and another file for the key."""
    text = (MONITORING / name).read_text()
    text, taken = re.subn(r"^    # (authorization:|  credentials_file: .*)$", r"    \1", text, flags=re.MULTILINE)
    assert taken == 2
    return text.replace("/etc/prometheus/arena-server.key", str(file))


@pytest.mark.parametrize("name", ["prometheus.yml", "scrape.yml"])
def test_the_key_s_lines_are_where_they_belong(name: str, tmp_path: Path) -> None:
    (job,) = yaml.safe_load(with_key(name, tmp_path / "key"))["scrape_configs"]
    assert job["authorization"] == {"credentials_file": str(tmp_path / "key")}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is missing")
def test_prometheus_takes_them(tmp_path: Path) -> None:
    key, config = tmp_path / "key", tmp_path / "prometheus.yml"
    key.write_text(KEY + "\n")
    config.write_text(with_key("prometheus.yml", key))
    shutil.copy(MONITORING / "arena-server.rules.yml", tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", str(config)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_a_key_for_the_figures_is_for_nothing_else() -> None:
    keys = {"prometheus": {"sha256": sha256_of(KEY), "scopes": ("metrics",)}}
    found: dict[str, int] = {}
    async with running_daemon(access={"keys": keys}) as daemon:
        for path in ("/metrics", "/stats", "/v1/models", "/v1/arena/settings", "/admin/pool", "/admin/keys"):
            async with connected(daemon.port) as client:
                client.request("GET", path, headers=[("Authorization", f"Bearer {KEY}")])
                found[path] = (await client.answer()).status
    assert found == {
        "/metrics": 200,
        "/stats": 200,
        "/v1/models": 403,
        "/v1/arena/settings": 403,
        "/admin/pool": 403,
        "/admin/keys": 403,
    }
