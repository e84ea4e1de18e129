"""Puts the demo's model folders where they are wanted: three small trained models that come with this package."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"  # made by scripts/train_demo_models.py
MARKER = "arena-demo.json"  # written last: tells the models of this package from others, and the size of every file

_ARCHITECTURES = {
    "tiny-llama": "LlamaForCausalLM",
    "tiny-mistral": "MistralForCausalLM",
    "tiny-qwen": "Qwen2ForCausalLM",
}


@dataclass(frozen=True)
class DemoModel:
    """One model folder: the name to serve it under, where it lies, and its architecture's name."""

    name: str
    path: Path
    architecture: str


def make_demo_models(directory: Path, *, report: Callable[[str], None]) -> list[DemoModel]:
    """Makes sure that the three model folders lie in `directory`, and returns them, the most skilled first.

    Complete folders are left as they are; missing and incomplete ones are written, with a line to
    `report` for each. The files are the same bytes on every run. Raises `OSError` where they cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    models = []
    for name, architecture in _ARCHITECTURES.items():
        model = DemoModel(name, directory / name, architecture)
        marker = _marker(WEIGHTS / name)
        if not _is_complete(model.path, marker):
            report(f"writing {model.name} to {model.path}")
            _write_folder(model.path, WEIGHTS / name, marker)
        models.append(model)
    return models


def _shipped(source: Path) -> list[Path]:
    """A model's files in the package, hidden ones of file managers and editors left out."""
    return sorted(file for file in source.iterdir() if not file.name.startswith("."))


def _marker(source: Path) -> str:
    """What the marker of this model's copy says: another text for other files."""
    files = _shipped(source)
    contents = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    sizes = {file.name: file.stat().st_size for file in files}
    return json.dumps({"contents": contents, "sizes": sizes}, indent=2) + "\n"


def _is_complete(folder: Path, marker: str) -> bool:
    try:
        sizes = {name: (folder / name).stat().st_size for name in json.loads(marker)["sizes"]}
        return (folder / MARKER).read_text(encoding="utf-8") == marker and json.loads(marker)["sizes"] == sizes
    except (OSError, ValueError):
        return False


def _write_folder(folder: Path, source: Path, marker: str) -> None:
    """Writes next to `folder` first and renames at the end, so that nobody ever sees half of it."""
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for file in _shipped(source):
            shutil.copyfile(file, draft / file.name)  # without the modes of the package's files
        (draft / MARKER).write_text(marker, encoding="utf-8")
        draft.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
