"""The set-up's parts one by one, on a host that is a folder: real files and owners, with stand-ins for what it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.scripts.run import ROOT, SCRIPTS

# A user of every Debian, whose group has the same name: it stands for the service's.
SERVICE = "daemon"
PLACES = ("/etc/vllm-arena", "/var/lib/vllm-arena", "/opt/vllm-arena", "/etc/nginx", "/etc/systemd/system")
FOLDERS = (*PLACES, "/etc/nginx/sites-available", "/etc/nginx/sites-enabled")


@dataclass(frozen=True, slots=True)
class Host:
    """A copy of the scripts that takes `root` for the whole machine."""

    root: Path

    @classmethod
    def make(cls, directory: Path) -> Host:
        """A host below the directory."""
        host = cls(directory / "host")
        for place in FOLDERS:
            host.at(place).mkdir(parents=True, exist_ok=True)
        shutil.copytree(SCRIPTS, host.root / "scripts")
        for script in (*(host.root / "scripts/lib").glob("*.sh"), host.script):
            text = script.read_text().replace("USER_NAME=vllm-arena", f"USER_NAME={SERVICE}")
            for place in PLACES:
                text = text.replace(place, str(host.at(place)))
            script.write_text(text)
        host.stubs.mkdir()
        return host

    @property
    def script(self) -> Path:
        """The set-up itself."""
        return self.root / "scripts/setup_vllm_multi_model.sh"

    @property
    def stubs(self) -> Path:
        """First in the PATH."""
        return self.root / "stubs"

    def at(self, path: str) -> Path:
        """A path of the machine, here."""
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        """A file of the machine."""
        file = self.at(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def stub(self, name: str, text: str) -> None:
        """A stand-in for a command."""
        (self.stubs / name).write_text(f"#!/bin/bash\n{text}\n")
        (self.stubs / name).chmod(0o755)

    def run(self, code: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run code of bash as the set-up would, with its parts at hand, and its log in `log`."""
        libraries = " ".join(f'. "{file}";' for file in self._libraries())
        begin = "set -euo pipefail; shopt -s lastpipe; umask 022; cd /\n" + libraries
        begin += f"""
set -E
trap '[ $? != "$TOLD" ] || exit 1; fail "line $LINENO: \\`$BASH_COMMAND\\` failed"' ERR
log={self.root}/log
engine=gpu port=8000 http_port=80 https_port=443 with_nginx=true with_weights=true
own_config='' token='' wanted_python='' allowed=() source_dir={ROOT}
daemon_port=8000 quantised=false half_only=false capability=90
"""
        path = f"{self.stubs}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", begin + code],
            env={"PATH": path, "LC_ALL": "C.UTF-8", **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def dry_run(self, env: Mapping[str, str], *args: str) -> subprocess.CompletedProcess[str]:
        """Run the whole set-up with `env`, from the root of the host; it changes nothing."""
        return subprocess.run(
            [self.script, "--dry-run", "--source", ROOT, *args],
            cwd=self.root,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def about(self, path: str) -> str:
        """Mode, owner and group of a path, without following links."""
        about: list[str | Path] = ["stat", "-c", "%a %U:%G", self.at(path)]
        return subprocess.run(about, capture_output=True, text=True, check=True).stdout.strip()

    def _libraries(self) -> list[Path]:
        folder = self.root / "scripts/lib"
        names = ("progress", "cidr", "uv", "options", "machine", "install", "config", "serve")
        return [folder / f"{name}.sh" for name in names if (folder / f"{name}.sh").exists()]
