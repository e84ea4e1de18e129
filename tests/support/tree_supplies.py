"""What makes apt and pip work in a tree as they do here: mirrors, certificates, indexes, caches, variables."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PASSED = re.compile(r"(PIP|UV)_.*|(SSL_CERT|REQUESTS_CA|CURL_CA)_.*|(https?|no|all)_proxy", re.IGNORECASE)
# What says where a package comes from; the rest of apt's configuration is about this machine's disk.
APT_OPTIONS = re.compile(r"Acquire::(https?::|ForceIPv|Check-|Retries)")
LOCAL_CERTIFICATES = Path("usr/local/share/ca-certificates")
UV_FILES = (Path("/etc/uv/uv.toml"), Path("~/.config/uv/uv.toml").expanduser())
CACHES = {"PIP_CACHE_DIR": ".cache/pip", "UV_CACHE_DIR": ".cache/uv"}  # variable that names it: below home without it


def apt_sources(suite: str) -> list[str]:
    """This machine's own sources of Debian's `suite`, in the one-line form; empty if there are none, or no apt."""
    if shutil.which("apt-get") is None:
        return []
    fields = "$(ORIGIN)|$(CODENAME)|deb $(SITE) $(RELEASE) $(COMPONENT)"
    listed = _output("apt-get", "indextargets", "--format", fields, "Identifier: Packages")
    suites = {suite, f"{suite}-updates", f"{suite}-security"}
    rows = [line.split("|") for line in listed.splitlines()]
    return list(dict.fromkeys(row[2] for row in rows if row[0] == "Debian" and row[1] in suites))


def mirror(suite: str) -> str | None:
    """Where this machine gets the suite itself from, not its updates."""
    return next((line.split()[1] for line in apt_sources(suite) if line.split()[2] == suite), None)


def environment() -> dict[str, str]:
    """The variables of this process by which pip, uv and their TLS find their way."""
    return {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}


def write_supplies(tree: Path, suite: str) -> None:
    """Write apt's sources and options, pip's and uv's configuration, hosts and certificates into a tree at rest."""
    _write(tree / "etc/apt/sources.list", apt_sources(suite))
    options = [line for line in _output("apt-config", "dump").splitlines() if APT_OPTIONS.match(line)]
    _write(tree / "etc/apt/apt.conf.d/50host", ['Acquire::Languages "none";', *options])  # none of 7 MB to download
    _write(tree / "etc/pip.conf", _pip_configuration())
    for file in UV_FILES:
        _copy(file, tree / "etc/uv/uv.toml")
    for name in ("etc/resolv.conf", "etc/hosts"):
        _copy(Path("/", name), tree / name)
    for certificate in Path("/", LOCAL_CERTIFICATES).glob("**/*.crt"):
        _copy(certificate, tree / LOCAL_CERTIFICATES / certificate.name)
    for value in environment().values():  # a bundle that somebody keeps in a place of his own
        if os.path.isabs(value) and not (tree / value[1:]).exists():
            _copy(Path(value), tree / value[1:])
    subprocess.run(["chroot", tree, "update-ca-certificates"], check=True, capture_output=True)


def binds() -> list[str]:
    """Arguments for systemd-nspawn: the checkout, what pip's and uv's configuration name, and their caches."""
    wanted = [f"--bind-ro={ROOT}:/src"]
    wanted += [f"--bind-ro={directory}" for directory in _local_directories()]
    for variable, place in CACHES.items():
        cache = Path(os.environ.get(variable) or Path.home() / place)
        if cache.is_dir():
            wanted.append(f"--bind={cache}:{os.environ.get(variable) or f'/root/{place}'}")
    return wanted


def _pip_settings() -> Mapping[str, str]:
    settings = {}
    for line in _output(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        settings[name] = str(ast.literal_eval(value))
    return settings


def _pip_configuration() -> Iterable[str]:
    """Of the files that pip reads here, site's, user's and virtual environment's, one."""
    last = ":env:"  # these come as variables
    for name, value in sorted(_pip_settings().items()):
        section, _, key = name.partition(".")
        if section != ":env:":
            yield from [f"[{section}]"] if section != last else []
            yield f"{key} = " + "\n    ".join(value.split())
        last = section


def _local_directories() -> list[Path]:
    """Directories of packages and indexes, outermost first, none inside another."""
    texts = [*_pip_settings().values(), *(f.read_text() for f in UV_FILES if f.is_file())]
    texts += [value for name, value in environment().items() if name not in CACHES]
    named = set()
    for scheme, path in re.findall(r"(?<![\w:/.~-])(file://)?(/[^\s\"'\],]+)", "\n".join(texts)):
        named.add(Path(path).parent if scheme else Path(path))  # an index's pages lead to files beside it
    there = sorted(p for p in named if p.is_dir() and not p.is_relative_to("/etc") and p != Path("/"))
    return [p for p in there if not any(other in p.parents for other in there)]


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a link would lead out of the tree
        shutil.copyfile(source, target)
