"""The arena's page at `/`: the files of `arena_server/web`, as they were when the daemon started.

They are read once and served from memory: only what is in the package can be had, whatever a path says, and a daemon
whose package is being upgraded goes on serving one version of all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".md": "text/markdown; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}

# Nothing from other hosts, nothing inline, and no string becomes markup or script (Trusted Types, without any policy):
# what a model writes could not run even if the page's own code let it through.
SECURITY = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Kept, but asked for again each time: after an upgrade nobody runs half of an old page.
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class WebFile:
    """One file of the page; `etag` is made of its bytes (RFC 9110, 8.8.3)."""

    content: bytes
    media_type: str
    etag: str


def page_router() -> APIRouter:
    """The routes `/` and `/web/...`; others than the package's files are 404."""
    router = APIRouter(include_in_schema=False)
    found = dict(_web_files(files("arena_server") / "web", PurePosixPath()))

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return _answer(request, found["index.html"])

    @router.api_route("/web/{path:path}", methods=["GET", "HEAD"])
    async def file(request: Request, path: str) -> Response:
        if path not in found:
            raise HTTPException(404, "Not Found")
        return _answer(request, found[path])

    return router


def _web_files(directory: Traversable, at: PurePosixPath) -> Iterator[tuple[str, WebFile]]:
    for entry in directory.iterdir():
        path = at / entry.name
        if entry.is_dir():
            yield from _web_files(entry, path)
        elif path.suffix in MEDIA_TYPES:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            yield str(path), WebFile(content, MEDIA_TYPES[path.suffix], etag)


def _answer(request: Request, file: WebFile) -> Response:
    headers = {**SECURITY, "etag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
