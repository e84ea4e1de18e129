"""nginx in front of a daemon of fake engines."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.nginx.site import Certificates, Proxy, make_certificates, nginx
from tests.support.daemon_app import FakeDaemon, running_daemon


@pytest.fixture(scope="session", autouse=True)
def nginx_is_here() -> None:
    """Skip all of them where something is missing."""
    for program in ("nginx", "openssl"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"{program} is not installed (Debian: apt-get install nginx-light openssl)")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    """A daemon that ends with nobody keeping a lease or a place."""
    async with running_daemon() as running:
        yield running
        await running.come_to_rest()


@pytest.fixture
def proxy(daemon: FakeDaemon, tmp_path: Path, certificates: Certificates) -> Iterator[Proxy]:
    """The shipped site in front of the daemon."""
    with nginx(tmp_path, daemon.port, certificates) as running:
        yield running
