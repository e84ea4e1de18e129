"""Debian's nginx with the shipped site, as a child of the test; and a client that speaks TLS to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.gate import LIMIT_S
from tests.support.raw_client import Answer, Header, RawClient

SITE = Path(__file__).parents[2] / "nginx/vllm-arena.conf"
# What the operator's own nginx.conf would say; here with what a test's directory needs.
MAIN = """
daemon off;
worker_processes 1;
{user}
pid {home}/nginx.pid;
error_log {home}/log/main.log;
env LD_PRELOAD;
env FAKETIME;
events {{ worker_connections 1024; }}
http {{
    # Of the test's own clients nobody is slow, whatever this machine is doing, and however fast nginx's clock runs.
    client_header_timeout 3600s;
    keepalive_requests 100000;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    access_log off;
    types {{ image/svg+xml svg; }}
    # Debian's, and with all types: the site has to keep its streams out of it.
    gzip on;
    gzip_types *;
    include {home}/site.conf;
}}
"""


@dataclass(frozen=True, slots=True)
class Certificates:
    """The test's own authority, and what it has signed for localhost."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running nginx."""

    home: Path
    port: int
    plain_port: int
    tls: ssl.SSLContext
    pid: int

    def open_files(self) -> list[str]:
        """What its workers have open in its directory, the logs left out: also what has been unlinked already."""
        workers = psutil.Process(self.pid).children()
        files = [link.readlink() for worker in workers for link in Path(f"/proc/{worker.pid}/fd").iterdir()]
        return [str(file) for file in files if file.is_relative_to(self.home) and "log" not in file.parts]

    @property
    def access_log(self) -> str:
        """All of it so far. A request's line is written after its last byte has left."""
        return (self.home / "log/vllm-arena.log").read_text()

    @contextlib.asynccontextmanager
    async def connected(self, source: str = "127.0.0.1") -> AsyncIterator[RawClient]:
        """A connection over TLS, from the address `source`."""
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.tls, server_hostname="localhost", local_addr=(source, 0)
            )
        try:
            yield RawClient(reader, writer)
        finally:
            # Not `close`: that waits for nginx to say goodbye in TLS, which it does not do in mid-answer.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def get(self, path: str, headers: Sequence[Header] = (), *, method: str = "GET") -> Answer:
        """One request without a body, on a connection of its own."""
        async with self.connected() as client:
            client.request(method, path, headers=headers)
            return await client.answer(method)

    async def post(self, path: str, body: object, headers: Sequence[Header] = ()) -> Answer:
        """JSON, on a connection of its own."""
        async with self.connected() as client:
            client.post(path, body, headers)
            return await client.answer()


def site(replaced: Mapping[str, str]) -> str:
    """The shipped site with exact strings replaced; each has to be there."""
    text = SITE.read_text()
    for old, new in replaced.items():
        assert old in text, f"{SITE.name} has no {old!r}"
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def nginx(
    home: Path,
    daemon_port: int,
    certificates: Certificates,
    *,
    allowed: Sequence[str] = ("127.0.0.1",),
    replaced: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Proxy]:
    """nginx with the shipped site in front of `daemon_port`, in the directory `home`.

    It listens as soon as this has begun: its sockets are made here and handed down, as nginx does to a new nginx when
    it is upgraded. So no port can be lost between finding and binding it, and nobody has to wait.
    """
    with contextlib.ExitStack() as stack:
        secure, plain = (stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512)) for _ in range(2))
        port, plain_port = secure.getsockname()[1], plain.getsockname()[1]
        for name in ("log", "etc/tls"):
            (home / name).mkdir(parents=True)
        shutil.copy(certificates.certificate, home / "etc/tls/cert.pem")
        shutil.copy(certificates.key, home / "etc/tls/key.pem")
        (home / "etc/nginx-allow.conf").write_text("".join(f"allow {a};\n" for a in allowed) + "deny all;\n")
        exact = {
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "listen 80;": f"listen 127.0.0.1:{plain_port};",
            "listen [::]:443 ssl;": "",
            "listen [::]:80;": "",
            "https://$host$request_uri": f"https://$host:{port}$request_uri",
            "server 127.0.0.1:8000 max_fails=0;": f"server 127.0.0.1:{daemon_port} max_fails=0;",
            "/etc/vllm-arena/tls/": f"{home}/etc/tls/",
            "include /etc/vllm-arena/nginx-allow.conf;": f"include {home}/etc/nginx-allow.conf;",
            "/var/log/nginx/": f"{home}/log/",
            **(replaced or {}),
        }
        (home / "site.conf").write_text(site(exact))
        # Its workers would else be www-data, who may not enter a directory of the test's.
        user = "user root;" if os.geteuid() == 0 else ""
        (home / "nginx.conf").write_text(MAIN.format(home=home, user=user))
        inherited = (secure.fileno(), plain.fileno())
        said = stack.enter_context((home / "log/stderr").open("wb"))
        child = subprocess.Popen(
            [binary(), "-p", str(home), "-c", str(home / "nginx.conf")],
            env={**os.environ, **(environment or {}), "NGINX": "".join(f"{fd};" for fd in inherited)},
            pass_fds=inherited,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
    trusting = ssl.create_default_context(cafile=str(certificates.authority))
    try:
        yield Proxy(home, port, plain_port, trusting, child.pid)
        assert child.poll() is None, (home / "log/stderr").read_text()
    finally:
        child.terminate()
        child.wait(LIMIT_S)
    logged = (home / "log/main.log").read_text()
    assert not re.search(r"\[(alert|crit|emerg)\]|exited on signal", logged), logged


def binary() -> str:
    """Debian's has its place where only root's PATH leads."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert found, "asked for without nginx"
    return found


def make_certificates(directory: Path) -> Certificates:
    """An authority, and a certificate of it for localhost."""
    authority, key, certificate = (directory / name for name in ("ca.pem", "key.pem", "cert.pem"))

    def openssl(*arguments: str | Path) -> None:
        base = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run([*base, "-days", "2", *arguments], check=True, capture_output=True, timeout=LIMIT_S)

    authority_key = directory / "ca.key"
    may_sign = ("-addext", "keyUsage=critical,keyCertSign")
    openssl("-subj", "/CN=test", *may_sign, "-keyout", authority_key, "-out", authority)
    signed = ("-CA", authority, "-CAkey", authority_key, "-addext", "basicConstraints=critical,CA:FALSE")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    openssl("-subj", "/CN=localhost", *signed, "-addext", names, "-keyout", key, "-out", certificate)
    return Certificates(authority, certificate, key)
