"""A stand-in of the hub's HTTP API on a real port: as much of it as its library asks to list and fetch a model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHUNK_BYTES = 64 << 10


@dataclass
class Repo:
    """One model's files. `gated` ones need the token; names in `large` are kept outside of git (LFS)."""

    files: dict[str, bytes]
    gated: bool = False
    large: tuple[str, ...] = (".safetensors", ".bin")


@dataclass
class HubStandIn:
    """What it serves, and what it was asked. After `break_after` bytes of any large file the connection breaks."""

    repos: dict[str, Repo] = field(default_factory=dict)
    token: str = "hf_right"
    url: str = ""
    commit: str = COMMIT
    break_after: int | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    on_chunk: Any = None  # called with the bytes sent so far of a large file

    def gets(self, ending: str) -> list[str | None]:
        """The ranges of all requests for files of that name."""
        return [range_ for method, path, range_ in self.asked if method == "GET" and path.endswith(ending)]


@contextlib.contextmanager
def serving_hub(hub: HubStandIn) -> Iterator[HubStandIn]:
    """Serve it; `hub.url` says where."""

    class Bound(_Requests):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: ClassVar[HubStandIn]

    def log_message(self, format: str, *args: Any) -> None:
        """Into a test's output it need not go."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        if is_api:
            parts = parts[2:]
        repo = self.served.repos.get("/".join(parts[:2]))
        if repo is None:
            self._refuse(401, "RepoNotFound")
        elif repo.gated and self.headers.get("Authorization") != f"Bearer {self.served.token}":
            self._refuse(403, "GatedRepo")
        elif is_api:
            self._api(repo, "/".join(parts[:2]), parts[2:])
        else:
            self._file(repo, parts[3], "/".join(parts[4:]))

    def _api(self, repo: Repo, name: str, rest: list[str]) -> None:
        if len(rest) > 1 and rest[1] not in ("main", self.served.commit):
            self._refuse(404, "RevisionNotFound")
        elif rest[:1] == ["tree"]:
            self._json([_entry(repo, file, "path", "oid") for file in repo.files])
        else:
            siblings = [_entry(repo, file, "rfilename", "blobId") for file in repo.files]
            self._json(
                {
                    "id": name,
                    "modelId": name,
                    "sha": self.served.commit,
                    "private": False,
                    "siblings": siblings,
                    "tags": [],
                }
            )

    def _file(self, repo: Repo, revision: str, file: str) -> None:
        if file not in repo.files:
            self._refuse(404, "EntryNotFound")
            return
        contents = repo.files[file]
        large = file.endswith(repo.large)
        begin = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0]) if "Range" in self.headers else 0
        self.send_response(206 if begin else 200)
        self.send_header("X-Repo-Commit", self.served.commit)
        self.send_header("ETag", f'"{_oid(repo, file)}"')
        self.send_header("Accept-Ranges", "bytes")
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(contents) - 1}/{len(contents)}")
        self.send_header("Content-Length", str(len(contents) - begin))
        self.end_headers()
        if self.command == "GET":
            self._send(contents, begin, large)

    def _send(self, contents: bytes, begin: int, large: bool) -> None:
        hub = self.served
        for at in range(begin, len(contents), CHUNK_BYTES):
            if large and hub.break_after is not None and at - begin >= hub.break_after:
                self.close_connection = True
                self.connection.shutdown(2)
                return
            with contextlib.suppress(OSError):  # the client has gone
                self.wfile.write(contents[at : at + CHUNK_BYTES])
            if large and hub.on_chunk is not None:
                hub.on_chunk(at + CHUNK_BYTES)

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code} of the stand-in")
        self.send_header("Content-Length", "0")
        self.end_headers()


def _entry(repo: Repo, file: str, name: str, oid: str) -> dict[str, Any]:
    contents = repo.files[file]
    entry: dict[str, Any] = {"type": "file", name: file, "size": len(contents), oid: _oid(repo, file)}
    if file.endswith(repo.large):
        sha256 = _oid(repo, file)
        entry["lfs"] = {"oid": sha256, "sha256": sha256, "size": len(contents), "pointerSize": 130}
    return entry


def _oid(repo: Repo, file: str) -> str:
    return _digest(repo.files[file], file.endswith(repo.large))


@cache
def _digest(contents: bytes, large: bool) -> str:
    return (hashlib.sha256 if large else hashlib.sha1)(contents).hexdigest()
