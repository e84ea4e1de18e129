"""A real daemon in its own process, as a user runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from arena_server.demo.daemon import ENGINE_ARGS, free_port
from tests.support.processes import command_line, lives


def model_config(path: Path, **more: Any) -> dict[str, Any]:
    """The configuration of one demo model, with room for answers that take a minute.

    Something has to happen *while* a model answers, on machines where a test may get no processor for seconds.
    """
    long = {"max_model_len": LONG, "hf_overrides": {"max_position_embeddings": LONG}}
    return {"model": str(path), "gpu_memory_utilization": 0.05, "engine_args": {**ENGINE_ARGS, **long}, **more}


# Tokens of context. The demo models' KV cache holds 32,768.
LONG = 30_000
ENDLESS = 25_000  # tokens of an answer that nobody waits for


class Daemon:
    """`arena-server serve` in a process of its own; `with` ends it and checks that nothing is left of it."""

    def __init__(
        self, directory: Path, models: Mapping[str, Any], *, env: Mapping[str, str] | None = None, **config: Any
    ) -> None:
        """`config` are further sections of the configuration, `env` further environment variables."""
        # One thread for each engine: where other work goes on, two wait for each other most of the time.
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        self.directory = directory
        self.port = free_port(0)
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "daemon.log"
        self.run_dir = directory / "run"
        # short: Unix sockets live below it
        self._content = {
            "server": {"port": self.port, **config.pop("server", {})},
            "state_dir": str(directory / "state"),
            "run_dir": str(self.run_dir),
            **config,
        }
        self.config = directory / "arena.yaml"
        self.configure(models)
        self.process: subprocess.Popen[bytes] | None = None
        self._seen: set[psutil.Process] = set()

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end()
        assert not self.left(), "processes outlived the daemon"

    def configure(self, models: Mapping[str, Any], **config: Any) -> None:
        """Write the configuration with these models and other sections; a running daemon reads it at SIGHUP."""
        content = {**self._content, **config, "models": dict(models)}
        self.config.write_text(yaml.safe_dump(content, sort_keys=False))

    @contextlib.contextmanager
    def lent(self, models: Mapping[str, Any], **config: Any) -> Iterator[Daemon]:
        """Running with these models and other sections instead, all of them cold; as it was, and cold, afterwards.

        A daemon of one's own costs vLLM's imports once more: 10 s of CPU, many times what a load takes.
        """
        before = self.config.read_text()
        try:
            self.configure(models, **config)
            self._begin_cold()
            yield self
        finally:
            self.config.write_text(before)
            self._begin_cold()

    def _begin_cold(self) -> None:
        """Put the file into force, and stop what is loaded."""
        said = self.hang_up()
        assert "needs_restart=[]" in said, said
        for name in self.health()["models"]:
            stop = urllib.request.Request(f"{self.url}/admin/models/{name}/stop", method="POST")
            urllib.request.urlopen(stop, timeout=30).close()
        self.wait_until(
            lambda: (
                {m["residency"] for m in self.health()["models"].values()} == {"cold"}
                and not self.titled("arena-server: engine ")  # nor one whose model is no longer configured
            ),
            "all models to be stopped",
        )

    def hang_up(self) -> str:
        """SIGHUP; returns what it says of the configuration."""
        assert self.process is not None
        heard = len(self._reloads())
        self.process.send_signal(signal.SIGHUP)
        self.wait_until(lambda: len(self._reloads()) > heard, "the configuration to be read")
        return self._reloads()[-1]

    def _reloads(self) -> list[str]:
        said = (f"{self.config} read again: ", "The configuration stays as it was: ")
        return [line for line in self.log.read_text().splitlines() if any(s in line for s in said)]

    def end(self) -> None:
        """SIGTERM, and wait for its end; `start` starts it again."""
        assert self.process is not None
        self.note_processes()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.tail()

    def start(self, wait_s: float = 20) -> None:
        """Start it, and wait until it answers /health."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "arena_server", "serve", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                process_group=0,  # as the demo's (see there)
                env=self.env,
            )
        self.wait_until(self._healthy, "the daemon to answer", wait_s)

    def _healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.tail()
        with contextlib.suppress(OSError):
            self.health()
            return True
        return False

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:]

    def get(self, path: str) -> Any:
        """The JSON behind a GET."""
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.loads(response.read())

    def health(self) -> dict[str, Any]:
        """`GET /health`."""
        body: dict[str, Any] = self.get("/health")
        return body

    def model(self, name: str) -> dict[str, Any]:
        """One model of `GET /health`."""
        state: dict[str, Any] = self.health()["models"][name]
        return state

    def known(self, name: str) -> dict[str, Any]:
        """One model of `GET /admin/pool`."""
        model: dict[str, Any] = next(m for m in self.get("/admin/pool")["models"] if m["name"] == name)
        return model

    def loads(self, name: str) -> int:
        """How often the model has been loaded so far."""
        return sum(line.endswith(f" Loading {name}") for line in self.log.read_text().splitlines())

    def socket_of(self, name: str) -> Path:
        """The private socket of a loaded engine."""
        (mine,) = self.run_dir.iterdir()
        found = [path for path in mine.glob("*/http.sock") if _serves(path, name)]
        assert len(found) == 1, f"{name} is served at {found}"
        return found[0]

    def wait_until(self, condition: Callable[[], bool], what: str, limit_s: float = 120) -> None:
        """Poll until the condition holds."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {limit_s} s for {what}\n{self.tail()}"
            time.sleep(0.02)

    async def until(self, condition: Callable[[], bool], what: str, limit_s: float = 120) -> None:
        """As `wait_until`, letting the test's own tasks run."""
        await asyncio.to_thread(self.wait_until, condition, what, limit_s)

    def processes(self) -> list[psutil.Process]:
        """Every living process below the daemon, zombies left out."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return [p for p in psutil.Process(self.process.pid).children(recursive=True) if lives(p)]
        return []

    def titled(self, beginning: str) -> list[psutil.Process]:
        """Those whose command line begins so, as `ps` shows it."""
        return [p for p in self.processes() if command_line(p).startswith(beginning)]

    def core_of(self, model: str) -> psutil.Process:
        """The EngineCore process of a model."""
        (engine,) = self.titled(f"arena-server: engine {model}")
        return next(p for p in engine.children(recursive=True) if command_line(p).startswith("VLLM::EngineCore"))

    def note_processes(self) -> None:
        """Remember what runs now, for `left`."""
        self._seen.update(self.processes())

    def left(self) -> list[psutil.Process]:
        """Those of the remembered processes that still live."""
        return [p for p in self._seen if lives(p)]

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.note_processes()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


def _serves(path: Path, name: str) -> bool:
    """Whether the engine behind this socket has the model. (A reload goes on counting the directories.)"""
    with socket.socket(socket.AF_UNIX) as engine:
        engine.settimeout(30)
        engine.connect(str(path))
        engine.sendall(b"GET /v1/models HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: engine.recv(1 << 16), b""))
    return f'"id":"{name}"'.encode() in answer
