"""The hub, by its own library: which files a model has, and what their headers say. Imported lazily, as it is slow."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arena_server.plan.errors import HubGone, PlanError
from arena_server.plan.files import index_file, indexed_files, weight_files
from arena_server.plan.origin import Repository
from arena_server.plan.safetensors import Tensor

TIMEOUT_S = 30.0


class Hub:
    """One model on the hub. Every call may wait for the network; whatever goes wrong is a PlanError of one line."""

    def __init__(self, name: str, repository: Repository) -> None:
        """`name` is the configured one, for errors."""
        self._name = name
        self._repository = repository
        self._sizes: dict[str, int] | None = None
        self._blobs: dict[str, str] = {}
        self._git_blobs: dict[str, str] = {}
        self.commit: str | None = None

    def files(self) -> Mapping[str, int]:
        """Its files' names, and their sizes in bytes."""
        if self._sizes is None:
            with told(self._name, self._repository):
                info = self._api().model_info(
                    self._repository.id, revision=self._repository.revision, files_metadata=True, timeout=TIMEOUT_S
                )
            self.commit = info.sha
            self._sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            self._blobs = {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs is not None}
            self._git_blobs = {file.rfilename: file.blob_id for file in info.siblings or () if file.blob_id}
        return self._sizes

    def blob(self, file: str) -> str | None:
        """The SHA-256 of one of `files`, under which the cache keeps it; None for small ones, which git has itself."""
        return self._blobs.get(file)

    def cache_name(self, file: str) -> str | None:
        """The name under which the cache keeps one of `files`, large or small."""
        return self._blobs.get(file) or self._git_blobs.get(file)

    def weight_files(self) -> list[str]:
        """The names of those with its weights; reads their index."""
        names = self.files()
        index = index_file(names, self._repository.load_format)
        indexed = indexed_files(self.json(index, weights=True)) if index is not None else ()
        return weight_files(names, self._repository.load_format, indexed)

    def json(self, file: str, *, weights: bool = False) -> dict[str, Any]:
        """One of its JSON files, by way of the cache."""
        from huggingface_hub import hf_hub_download

        quiet()
        repository = self._repository
        with told(self._name, repository):
            path = hf_hub_download(
                repository.id,
                file,
                revision=repository.revision,
                cache_dir=repository.weights_dir if weights else repository.cache_dir,
                token=repository.token,
            )
        return read_json(Path(path))

    def tensors(self) -> list[Tensor]:
        """What is in its weights, by their headers alone; nothing if they have another format than safetensors."""
        files = self.weight_files()
        if not all(file.endswith(".safetensors") for file in files):
            return []
        found: list[Tensor] = []
        for file in files:
            with told(self._name, self._repository):
                header = self._api().parse_safetensors_file_metadata(
                    self._repository.id, file, revision=self._repository.revision
                )
            found += [Tensor(name, t.dtype, tuple(t.shape)) for name, t in header.tensors.items()]
        return found

    def weight_bytes(self) -> int:
        """The size of its weights' files."""
        sizes = self.files()
        return sum(sizes[file] for file in self.weight_files())

    def _api(self) -> Any:
        from huggingface_hub import HfApi

        quiet()
        return HfApi(token=self._repository.token)


def quiet() -> None:
    """The library's own bars, and its word on each connection that broke, would stand between ours."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises PlanError."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as e:
        raise PlanError(f"{path}: cannot be read: {e.strerror}") from None
    except (ValueError, RecursionError):
        raise PlanError(f"{path}: is not JSON (fetch the file again)") from None
    if not isinstance(found, dict):
        raise PlanError(f"{path}: is not a JSON object")
    return found


@contextmanager
def told(name: str, repository: Repository) -> Iterator[None]:
    """The library's errors as PlanErrors of one line that names the model and says what to do."""
    try:
        yield
    except PlanError:
        raise
    except Exception as e:  # its HTTP library's errors are another's with each of its versions
        what = f"`{repository.id}`"
        if (refusal := _refusal(e, repository, what)) is not None:
            raise PlanError(f"{name}: {refusal}") from e
        raise HubGone(f"{name}: {_gone(e, what)}") from e


def _refusal(error: BaseException, repository: Repository, what: str) -> str | None:
    """What a person has to put right; None where it is the hub, or the way to it."""
    from huggingface_hub import constants, errors

    chain = list(_chain(error))
    if any(isinstance(e, errors.GatedRepoError) for e in chain):
        page = f"{constants.ENDPOINT}/{repository.id}"
        return f"{what} is gated: ask for access at {page}, then set HF_TOKEN to a token of that account"
    if any(isinstance(e, errors.RevisionNotFoundError) for e in chain):
        return f"{what} has no revision `{repository.revision or 'main'}` (check `revision` in engine_args)"
    if any(isinstance(e, errors.RepositoryNotFoundError) for e in chain):
        return f"there is no {what} on the hub, or it is private (check the id; set HF_TOKEN if it needs one)"
    if any(isinstance(e, errors.OfflineModeIsEnabled) for e in chain) or constants.HF_HUB_OFFLINE:
        return f"{what} is not whole in the cache and HF_HUB_OFFLINE is set (unset it, or fetch it elsewhere)"
    if any(isinstance(e, errors.HFValidationError) for e in chain):
        return f"{what} is no model id (write org/name, or a path that starts with / ./ ../ or ~)"
    if any(isinstance(e, errors.RemoteEntryNotFoundError) for e in chain):
        return f"{what} has no such file: {_line(error)}"
    if (status := _status(chain)) == 401:
        return f"{what}: the hub does not accept the token (check HF_TOKEN)"
    if status == 403:
        return f"{what}: the token has no right to it (check HF_TOKEN and the model's page)"
    for e in chain:
        if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{what}: the disk is full (make room, then run it again: it goes on where it stopped)"
        if isinstance(e, PermissionError):
            return f"{what}: no permission: {e.filename} (run it as the user that the service runs as)"
    return None


def _gone(error: BaseException, what: str) -> str:
    from huggingface_hub import constants

    if (status := _status(list(_chain(error)))) == 429:
        return f"{what}: the hub asks for fewer requests (wait some minutes, set HF_TOKEN, then run it again)"
    if status is not None:
        return f"{what}: the hub answers {status}: {_line(error)} (run it again later)"
    reason = f"{type(error).__name__}: {_line(error)}"
    return f"{what}: the hub at {constants.ENDPOINT} cannot be used: {reason} (check the network, then run it again)"


def _status(chain: Sequence[BaseException]) -> int | None:
    """The HTTP status that the hub has refused with."""
    from huggingface_hub import errors

    for e in chain:
        if isinstance(e, errors.HfHubHTTPError) and getattr(e, "response", None) is not None:
            return int(e.response.status_code)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."
