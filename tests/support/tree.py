"""A Debian tree under a real systemd, for what only a whole host can show: units, set-up scripts, the journal.

systemd-nspawn boots it beside this machine's own init, whatever that is. Its processes, files, users and journal are
its own; the network is the host's, so daemons in it listen on ports that the test picks (`free_port(0)`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from tests.support.notify_socket import NotifySocket, notify_socket
from tests.support.tree_supplies import apt_sources, binds, environment, mirror, write_supplies

SUITE = "bookworm"
PACKAGES = ("systemd", "dbus", "ca-certificates")
TOOLS = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
TOOLS |= {"setpriv": "util-linux", "chroot": "coreutils", "tar": "tar"}
BOOT_LIMIT_S = 120.0
END_LIMIT_S = 60.0
MEMORY_BYTES = 8 << 30  # for the files of a tree
KEPT_S = 7 * 24 * 3600.0  # a tree that was made this long ago is made anew
_TAR = ("--numeric-owner", "--xattrs", "--xattrs-include=*")
# Before what Popen starts: it ends when the main thread of the tests does, however that ends.
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")


def why_not() -> str | None:
    """The reason why a tree cannot be made and booted here, if there is one."""
    if os.geteuid() != 0:
        return "a tree under systemd needs root"
    if missing := [package for tool, package in TOOLS.items() if shutil.which(tool) is None]:
        return f"a tree under systemd needs {', '.join(sorted(set(missing)))} (Debian: apt-get install)"
    if mirror(SUITE) is None:
        return f"apt here knows no mirror of Debian {SUITE}, of which the tree is made"
    if not _cgroup_roots():
        return "there are no cgroups here for the tree's systemd"
    unshared = subprocess.run(["unshare", "-m", "-p", "-f", "true"], check=False, capture_output=True, text=True)
    return f"no namespaces here for the tree's systemd: {unshared.stderr.strip()}" if unshared.returncode else None


@dataclass
class Tree:
    """One tree. `make` it, `boot` it, `run` things in it, and `power_off`, which removes it."""

    place: Path  # where it is in its own view of the file systems
    _holder: subprocess.Popen[bytes]
    _nspawn: subprocess.Popen[bytes] | None = None
    _leader: int = 0  # its systemd, as this machine counts
    _cgroups: list[Path] = field(default_factory=list)

    @classmethod
    def make(cls, directory: Path) -> Self:
        """Fill the directory, which must not exist: 40 s the first time, 2 s while what was made then is fresh."""
        directory.mkdir(parents=True)
        tree = cls(directory, _hold(directory))
        try:
            kept = _kept_tree()
            if kept.exists() and time.time() - kept.stat().st_mtime < KEPT_S:
                _call("tar", "-xf", str(kept), "-C", str(tree.directory), *_TAR)
            else:
                tree._bootstrap()
                tree._keep(kept)
            write_supplies(tree.directory, SUITE)
        except BaseException:
            tree.power_off()
            raise
        return tree

    def _bootstrap(self) -> None:
        source = mirror(SUITE)
        assert source is not None, why_not()
        # Nothing in it has to outlive a power cut, so dpkg need not wait for the disk at each file.
        (self.directory / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True)
        (self.directory / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
        include = f"--include={','.join(PACKAGES)}"
        _call(*_view_of(self._holder), "debootstrap", "--variant=minbase", include, SUITE, str(self.place), source)

    def _keep(self, kept: Path) -> None:
        """For the next run."""
        kept.parent.mkdir(parents=True, exist_ok=True)
        packing = kept.with_suffix(f".{os.getpid()}.tar")
        try:
            packages = "--exclude=./var/cache/apt/archives/*.deb"
            _call("tar", "-cf", str(packing), "-C", str(self.directory), packages, *_TAR, ".")
            packing.replace(kept)
        finally:
            packing.unlink(missing_ok=True)

    @property
    def directory(self) -> Path:
        """Its root as this machine sees it, less what is mounted when it runs (`read` and `write` see that, too)."""
        return Path(f"/proc/{self._holder.pid}/root{self.place}")

    @property
    def console(self) -> Path:
        """What its systemd prints."""
        return self.place.with_name(self.place.name + ".console")

    def boot(self) -> None:
        """Start its systemd; returns when that has come up to multi-user, and says so (sd_notify)."""
        # A cgroup of its own: two trees in one would end each other's units.
        self._cgroups = [root / f"tree-{self._holder.pid}" for root in _cgroup_roots()]
        for cgroup in self._cgroups:
            cgroup.mkdir()
        enter = "".join(f"echo $$ >{cgroup}/cgroup.procs; " for cgroup in self._cgroups)
        nspawn = ["systemd-nspawn", "--register=no", "--keep-unit", "--notify-ready=yes", "--boot", "--console=pipe"]
        nspawn += ["-D", str(self.place), "--machine=host", "--resolv-conf=off", "--link-journal=no", *binds()]
        with notify_socket() as notify, self.console.open("wb") as console:
            self._nspawn = subprocess.Popen(
                # The tree dies with it. In a session of its own: Ctrl-C is for the test.
                [*_DIES_WITH_US, "sh", "-c", f'{enter}exec "$@"', "sh", *_view_of(self._holder), *nspawn],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                # The variable: /tmp stays on the disk, as on hosts; in memory it would be too small for pip.
                env={**os.environ, "NOTIFY_SOCKET": notify.address, "SYSTEMD_NSPAWN_TMPFS_TMP": "0"},
            )
            self._await_ready(notify)

    def _await_ready(self, notify: NotifySocket) -> None:
        deadline = time.monotonic() + BOOT_LIMIT_S
        while time.monotonic() < deadline and self._nspawn is not None and self._nspawn.poll() is None:
            with contextlib.suppress(TimeoutError):
                said = notify.next(0.5)
                self._leader = int(said.get("X_NSPAWN_LEADER_PID", self._leader))
                if said.get("READY") == "1":
                    return
        raise AssertionError(f"the tree did not boot; the end of {self.console}:\n{self._tail()}")

    def _tail(self) -> str:
        return self.console.read_text(errors="replace")[-3000:]

    def run(
        self,
        *argv: str,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root, in `/`, and wait for its end. `env` is added to what makes pip and uv work.

        Raises AssertionError with the output if the status is not 0 and `check` is set, or when `timeout_s` is over.
        """
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", **environment(), **(env or {})}
        try:
            done = subprocess.run(
                [*self._enter(), *_DIES_WITH_US, *argv],  # whose parent stays outside
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                env=variables,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise AssertionError(f"{argv} took over {timeout_s:g} s\n{_text(e.stdout)}{_text(e.stderr)}") from None
        assert done.returncode == 0 or not check, f"{argv}: status {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def _enter(self) -> list[str]:
        # Not the user's namespace, which is the host's, nor the network's, which is shared.
        namespaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup"]
        nsenter = shutil.which("nsenter") or "nsenter"  # the tree's PATH need not lead to it
        return [nsenter, "--target", str(self._leader), *namespaces, "--root", "--wd", "--"]

    def copy_in(self, source: Path, target: str) -> None:
        """Copy a file or a directory from this machine to the absolute path `target` in the tree."""
        there = self._place(target)
        there.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, there, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(source, there)

    def write(self, path: str, text: str) -> None:
        """Write a file of the tree."""
        self._place(path).parent.mkdir(parents=True, exist_ok=True)
        self._place(path).write_text(text)

    def read(self, path: str) -> str:
        """The text of a file in the tree."""
        return self._place(path).read_text()

    def _place(self, path: str) -> Path:
        """A file of the running tree, /run and other mounts and links included."""
        assert os.path.isabs(path), path
        inside = self.run("realpath", "-m", path).stdout.strip()
        return Path(f"/proc/{self._leader}/root{inside}")

    def processes(self) -> list[int]:
        """All that runs in it, its systemd included, as this machine counts."""
        ours = os.readlink(f"/proc/{self._leader}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "ns/pid") == ours:
                    found.append(int(entry.name))
        return found

    def power_off(self) -> None:
        """End it and remove it. Nothing of it is left then."""
        try:
            if self._nspawn is not None:
                self._end(self._nspawn)
        finally:
            for cgroup in self._cgroups:
                _remove_cgroup(cgroup)
            self._holder.kill()  # and with it the memory that the tree is in
            self._holder.communicate()
            shutil.rmtree(self.place)
            self.console.unlink(missing_ok=True)

    def _end(self, nspawn: subprocess.Popen[bytes]) -> None:
        if self._leader and nspawn.poll() is None:
            # At once: nothing in it has to be ended in order, and its end takes all processes with it.
            off = ["systemctl", "poweroff", "--force", "--force"]
            subprocess.run([*self._enter(), *off], check=False, capture_output=True)
        try:
            nspawn.wait(END_LIMIT_S if self._leader else 0)
        except subprocess.TimeoutExpired:
            nspawn.send_signal(signal.SIGKILL)  # the kernel ends the tree's systemd with it, and all below that
            nspawn.wait()
            raise AssertionError(f"the tree did not power off; the end of its console:\n{self._tail()}") from None


def _hold(directory: Path) -> subprocess.Popen[bytes]:
    """A process with a view of the file systems of its own, in which the directory is memory, if there is enough.

    3 GB that set-up writes take a minute to remove from a disk; these go when the last process that sees them does.
    """
    mount = f"mount -t tmpfs -o mode=755,size={MEMORY_BYTES} tree '{directory}' && "
    script = (mount if psutil.virtual_memory().available > 2 * MEMORY_BYTES else "") + "echo held && exec cat"
    holder = subprocess.Popen(
        [*_DIES_WITH_US, "unshare", "--mount", "--propagation=private", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n", "no place could be made for a tree (above)"
    return holder


def _view_of(holder: subprocess.Popen[bytes]) -> list[str]:
    return ["nsenter", "--target", str(holder.pid), "--mount", "--"]


def _kept_tree() -> Path:
    """Where a fresh tree is kept from one run to the next: debootstrap takes 40 s."""
    made_of = "\n".join([*PACKAGES, *apt_sources(SUITE)])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arena-server-tests"
    return cache / f"{SUITE}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}.tar"


def _cgroup_roots() -> list[Path]:
    """This process's own cgroup in the hierarchies that a systemd uses: version 2, and version 1's `name=systemd`."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    roots = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        name = "" if kind == "cgroup2" else "name=systemd"
        if kind == "cgroup2" or (kind == "cgroup" and name in options.split(",")):
            root = Path(place, own[name].lstrip("/"))
            if os.access(root, os.W_OK):
                roots.append(root)
    return list(dict.fromkeys(roots))


def _remove_cgroup(cgroup: Path) -> None:
    for path, _, _ in os.walk(cgroup, topdown=False):
        os.rmdir(path)


def _call(*argv: str) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: status {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}"


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
