"""nginx with one static route: the floor, for it reads nothing of what it passes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from bench.client import Target
from bench.peers.door import Door, program, until_answers
from bench.peers.engine import Engine
from bench.peers.ports import free_ports

NAME = "nginx"
# One worker, as the daemon has one process. Connections to the engine are kept, as nginx's guide advises for upstreams.
CONFIG = """\
daemon off;
worker_processes 1;
{user}pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    upstream engine {{
        server unix:{socket};
        keepalive 256;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        keepalive_requests 1000000;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def binary() -> str | None:
    """Path of nginx; Debian's is where only root's PATH leads."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def version(path: str) -> str:
    """As it tells itself, e.g. `nginx/1.22.1`."""
    said = subprocess.run([path, "-v"], capture_output=True, text=True, check=True, timeout=10).stderr
    return said.strip().removeprefix("nginx version: ")


def config(home: Path, socket: str, port: int, *, as_root: bool) -> str:
    """nginx.conf for a route from `port` to the engine's socket, with all files in `home`."""
    # Root's nginx would run its worker as somebody who may not enter the benchmark's directory.
    return CONFIG.format(home=home, socket=socket, port=port, user="user root;\n" if as_root else "")


@contextlib.asynccontextmanager
async def front_door(path: str, engine: Engine, directory: Path) -> AsyncIterator[Door]:
    """nginx in front of the engine, up; `directory` is for its files."""
    [port] = free_ports(1)
    settings = directory / "nginx.conf"
    settings.write_text(config(directory, engine.socket, port, as_root=os.geteuid() == 0))
    target = Target(NAME, port)
    async with program(directory, NAME, path, "-p", str(directory), "-c", str(settings)) as running:
        await until_answers(target, running)
        about = f"{version(path)}, one worker, static route to the engine's Unix socket, no buffering, no access log"
        yield Door(about, [running.side(target)])
