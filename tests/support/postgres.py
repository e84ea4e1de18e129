"""A PostgreSQL server of the tests' own, from Debian's package: in a temporary directory, on a Unix socket only."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

USER = "arena"
START_S = 60.0


def _programs() -> Path | None:
    """Where the newest installed version's programs are."""
    found = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/postgres") if (p.parent / "initdb").exists()]
    return max(found, key=lambda directory: int(directory.parent.name), default=None)


class PostgresServer:
    """Can be started and stopped as often as a test wants."""

    def __init__(self, programs: Path, directory: Path, as_user: list[str]) -> None:
        """`as_user` is the command that runs another one as a user whom PostgreSQL takes (it refuses root)."""
        self._programs = programs
        self._directory = directory
        self._as_user = as_user
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://{USER}@/{database}?host={self._directory}"

    def make_cluster(self) -> None:
        command = [*self._as_user, str(self._programs / "initdb"), "-D", str(self._directory / "data"), "-U", USER]
        command += ["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, timeout=START_S, cwd="/")

    def start(self) -> None:
        """Returns when it takes connections."""
        command = [*self._as_user, str(self._programs / "postgres"), "-D", str(self._directory / "data"), "-F"]
        command += ["-k", str(self._directory), "-c", "listen_addresses="]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + START_S
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self._directory), "-d", "postgres", "-U", USER]
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL does not start:\n{(self._directory / 'log').read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """At once, as if it had crashed."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=START_S)

    def new_database(self) -> str:
        """Make an empty database. Returns its URL."""
        import psycopg

        self._databases += 1
        name = f"test{self._databases}"
        with psycopg.connect(f"host={self._directory} user={USER} dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server; skips the test, and says why, where there can be none."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    pytest.importorskip("psycopg", reason="psycopg is not installed (scripts/setup dev)")
    # With this process the server ends, too, even if it is killed. Debian always has setpriv.
    as_user = ["setpriv", "--pdeathsig", "QUIT"]
    directory = Path(tempfile.mkdtemp(prefix="arena-pg-"))  # a short path: a socket's has 107 characters at most
    try:
        if os.getuid() == 0:
            try:
                postgres = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL refuses to run as root, and there is no user `postgres`")
            os.chown(directory, postgres.pw_uid, postgres.pw_gid)
            as_user += [f"--reuid={postgres.pw_uid}", f"--regid={postgres.pw_gid}", "--clear-groups"]
        server = PostgresServer(programs, directory, as_user)
        server.make_cluster()
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
