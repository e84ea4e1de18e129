"""Fetches files into the hub library's cache, and goes on where an interrupted run has stopped.

The library itself (2.x) begins an interrupted file anew, and such files have 5 GB and more. So weights are put into
its cache here, by its own download function, lock and names; the rest, the links and the reference to the revision are
left to it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO

from arena_server.plan.errors import PlanError
from arena_server.plan.hub import quiet, told
from arena_server.plan.origin import Repository
from arena_server.plan.place import Wanted, model_dir, partial_bytes
from arena_server.plan.progress import Progress

THREADS = 4
READ_BYTES = 8 << 20
# Larger ones are not to be had over plain HTTP: for these the library has another way, which begins anew.
MOST_BYTES = 50 * 10**9


def fetch_blobs(name: str, repository: Repository, commit: str, wanted: Sequence[Wanted], progress: Progress) -> None:
    """Fetch files' contents, some at a time. Raises PlanError when one has failed and the others have stopped."""
    stop = threading.Event()
    with told(name, repository), ThreadPoolExecutor(THREADS) as threads:
        tasks = [threads.submit(_one, name, repository, commit, file, progress, stop) for file in wanted]
        try:
            done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
            for task in done:
                task.result()
        except BaseException:
            stop.set()  # the others, too: what they have is kept
            raise


def fetch_rest(name: str, repository: Repository, weights: Sequence[Wanted], beside: Sequence[Wanted]) -> None:
    """Fetch what is still missing, and make the cache's links. Raises PlanError."""
    from huggingface_hub import snapshot_download

    quiet()
    parts = [(repository.weights_dir, weights), (repository.cache_dir, beside)]
    if repository.weights_dir == repository.cache_dir:
        parts = [(repository.cache_dir, [*weights, *beside])]
    with told(name, repository):
        for folder, files in parts:
            if files:
                snapshot_download(
                    repository.id,
                    revision=repository.revision,
                    cache_dir=folder,
                    allow_patterns=[wanted.file for wanted in files],
                    token=repository.token,
                )


def _one(
    name: str, repository: Repository, commit: str, wanted: Wanted, progress: Progress, stop: threading.Event
) -> None:
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # its own files import it from there

    folder = model_dir(repository)
    blob = folder / "blobs" / str(wanted.blob)
    lock = folder.parent / ".locks" / folder.name / f"{wanted.blob}.lock"
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):  # also against an engine that is loading it
        if blob.exists():
            progress.add(wanted.size)
            return
        partial = blob.with_name(f"{blob.name}.incomplete")
        had = partial_bytes(repository, wanted)
        with partial.open("ab") as file:
            _download(repository, commit, wanted, had, _Counted(file, progress, stop))
        if had and _sha256(partial, stop) != wanted.blob:
            partial.unlink()
            raise PlanError(f"{name}: {wanted.file}: what was fetched before does not go with the rest (run it again)")
        os.replace(partial, blob)


def _download(repository: Repository, commit: str, wanted: Wanted, had: int, file: _Counted) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    quiet()
    http_get(
        hf_hub_url(repository.id, wanted.file, revision=commit),
        file,  # type: ignore[arg-type]  # it has all of a file that the function uses
        resume_size=had,
        headers={**build_hf_headers(token=repository.token), "Accept-Encoding": "identity"},
        expected_size=wanted.size,
        displayed_filename=wanted.file,
    )


class _Stopped(Exception):
    """Another file failed, or somebody has interrupted."""


class _Counted:
    """A file that tells the progress of each write, and stops when it should."""

    def __init__(self, file: BinaryIO, progress: Progress, stop: threading.Event) -> None:
        self._file = file
        self._progress = progress
        self._stop = stop

    def write(self, chunk: bytes) -> int:
        """Write, and count."""
        if self._stop.is_set():
            raise _Stopped
        self._progress.add(len(chunk))
        return self._file.write(chunk)

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()

    def seek(self, position: int, whence: int = 0) -> int:
        """As a file's."""
        return self._file.seek(position, whence)

    def truncate(self, size: int | None = None) -> int:
        """As a file's: the server begins anew, so what was there does not count."""
        before = self._file.seek(0, os.SEEK_END)
        after = self._file.truncate(size)
        self._progress.add(after - before)
        return after


def _sha256(path: Path, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            if stop.is_set():
                raise _Stopped
            digest.update(chunk)
    return digest.hexdigest()
