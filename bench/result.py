"""A benchmark's result as it is kept in docs/benchmarks/NAME.json: its report, and how it came about."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs/benchmarks"
# A list of plain numbers or words, which `json.dumps` would spread over a line for each.
PLAIN_LIST = re.compile(r"\[\s+((?:-?[\d.e+-]+|NaN|null|true|false)(?:,\s+(?:-?[\d.e+-]+|NaN|null|true|false))*)\s+\]")


@dataclass(frozen=True, slots=True)
class Result:
    """What `python -m bench.NAME --json` ended with."""

    bench: str
    command: str
    began: datetime
    seconds: float
    commit: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    goal: str
    met: bool
    lines: list[str]
    figures: Mapping[str, Any]

    def text(self) -> str:
        """The JSON."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields |= {"began": self.began.isoformat(timespec="seconds"), "seconds": round(self.seconds, 1)}
        spread_out = json.dumps(fields, indent=2, ensure_ascii=False)
        return PLAIN_LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", spread_out) + "\n"

    def mark(self) -> str:
        """The same for the same figures only: by it one sees whether a picture was drawn from them."""
        return hashlib.sha256(json.dumps(self.figures, sort_keys=True).encode()).hexdigest()[:16]


def parse(text: str) -> Result:
    """The result that a JSON holds. Raises TypeError or KeyError if it is none."""
    fields = json.loads(text)
    began = datetime.fromisoformat(fields["began"]).astimezone(UTC)
    return Result(**{**fields, "began": began})


def keep(path: Path, result: Result) -> None:
    """Write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(result.text())


def kept(directory: Path = RESULTS) -> dict[str, Result]:
    """All results in the directory, by their benchmark's name."""
    return {path.stem: parse(path.read_text()) for path in sorted(directory.glob("*.json"))}
