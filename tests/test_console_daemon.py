"""A daemon for the console's tests: it says what it is told to say, and notes what it was asked."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from arena_server.console.api import Api
from arena_server.console.picture import Picture
from arena_server.console.shape import read

GIB = 1 << 30


def model_json(name: str, residency: str = "cold", *, gib: float = 0, **more: Any) -> dict[str, Any]:
    """A model as `/admin/pool` shows it; `gib` are reserved on device 0."""
    devices = [{"index": 0, "reserved_bytes": int(gib * GIB), "awake_bytes": None, "asleep_bytes": None}]
    return {
        "name": name,
        "model": f"org/{name}",
        "aliases": [],
        "residency": residency,
        "since_s": 12.0,
        "pinned": False,
        "draining": None,
        "running": 0,
        "waiting": 0,
        "requests_total": 0,
        "idle_s": None,
        "devices": [0],
        "gpu_memory_utilization": 0.3,
        "sleep_level": 1,
        "memory": {
            "devices": devices,
            "host_reserved_bytes": 0,
            "weights_bytes": None,
            "kv_cache_bytes": None,
        },
        "times": {"load_s": None, "wake_s": None, "sleep_s": None, "stop_s": None},
        "loading": None,
        "eta_s": None,
        "failures": 0,
        "error": None,
        "retry_in_s": None,
        "pid": None,
        **more,
    }


def device_json(index: int = 0, **more: Any) -> dict[str, Any]:
    """A device as `/admin/pool` shows it."""
    return {
        "index": index,
        "name": "NVIDIA H200",
        "total_bytes": 140 * GIB,
        "budget_bytes": 133 * GIB,
        "reserved_bytes": 0,
        "used_bytes": 1 * GIB,
        "outside_bytes": 0,
        "outside": [],
        "processes": None,
        "processes_unknown": "the driver does not say what each process has",
        "blocked": None,
        **more,
    }


def waiter_json(place: int, *models: str, **more: Any) -> dict[str, Any]:
    """A request in the queue."""
    return {
        "ticket": 100 + place,
        "models": list(models),
        "waited_s": 2.5,
        "place": place,
        "phase": "loading",
        "eta_s": 20.0,
        **more,
    }


def decision_json(seq: int, what: str, model: str | None, why: str, cost_s: float | None = None) -> dict[str, Any]:
    """A decision of the pool."""
    at = f"2026-11-21T12:00:{seq % 60:02}+00:00"
    return {"seq": seq, "at": at, "what": what, "model": model, "why": why, "cost_s": cost_s}


def pool_json(*models: dict[str, Any], **more: Any) -> dict[str, Any]:
    """`GET /admin/pool`."""
    return {
        "version": "9.8.7",
        "uptime_s": 3700.0,
        "status": "healthy",
        "limits": {"max_queue": 64, "max_wait_s": 60.0, "patience_s": None, "max_awake_models": None},
        "models": list(models),
        "devices": [device_json()],
        "host": {
            "total_bytes": 1000 * GIB,
            "used_bytes": 100 * GIB,
            "sleep_budget_bytes": 80 * GIB,
            "sleep_reserved_bytes": 20 * GIB,
        },
        "queue": [],
        "swaps_total": 3,
        **more,
    }


def picture(*models: dict[str, Any], **more: Any) -> Picture:
    """The same as the console holds it."""
    return read(Picture, pool_json(*models, **more))


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    body: bytes
    status: int = 200
    kind: str = "application/json"


def reply(value: Any, status: int = 200) -> Reply:
    """An answer in JSON."""
    return Reply(json.dumps(value).encode(), status)


def error(status: int, message: str, code: str | None = None) -> Reply:
    """An error in OpenAI's form."""
    return reply({"error": {"message": message, "type": "x", "param": None, "code": code}}, status)


NO_ROUTE = Reply(b"<html>nginx</html>", 404, "text/html")


@dataclass(slots=True)
class StandIn:
    """Answers by `GET /path`: each request takes the next one of its list, and the last stays."""

    port: int
    asked: list[str] = field(default_factory=list)
    shown: list[str | None] = field(default_factory=list)  # of each request, its Authorization
    answers: dict[str, list[Reply]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def say(self, request: str, *replies: Reply) -> None:
        """What to answer from now on."""
        self.answers[request] = list(replies)

    def pools(self, *pools: dict[str, Any]) -> None:
        """What `/admin/pool` shows, one after the other."""
        self.say("GET /admin/pool", *map(reply, pools))

    def next(self, request: str) -> Reply:
        """The answer to a request."""
        self.asked.append(request)
        replies = self.answers.get(request, [NO_ROUTE])
        return replies.pop(0) if len(replies) > 1 else replies[0]


@contextlib.contextmanager
def stand_in(*models: dict[str, Any], **more: Any) -> Iterator[StandIn]:
    """A daemon with that pool behind a port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said.shown.append(self.headers.get("Authorization"))
            answer = said.next(f"{self.command} {self.path}")
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.end_headers()
            self.wfile.write(answer.body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    said = StandIn(server.server_address[1])
    said.pools(pool_json(*models, **more))
    said.say("GET /admin/decisions", reply({"decisions": []}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield said
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(**more: str) -> dict[str, str]:
    """This process's, without what would change the console's ways."""
    unset = {"ARENA_API_KEY", "ARENA_URL", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"}
    return {**{k: v for k, v in os.environ.items() if k not in unset}, "TZ": "UTC", **more}


def console(*arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, without a terminal."""
    command = [sys.executable, "-m", "arena_server", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment(**(env or {}))
    )


def test_the_stand_in_speaks_as_the_console_understands() -> None:
    with stand_in(model_json("a", "awake", gib=2)) as daemon:
        api = Api(daemon.url)
        assert api.pool() == picture(model_json("a", "awake", gib=2))
        assert api.decisions() == ()
        assert daemon.asked == ["GET /admin/pool", "GET /admin/decisions"]
