"""What a safetensors file says of its tensors, read from its header alone.

The format: 8 bytes, the header's length (little-endian); then the header, JSON: each tensor's name, `dtype`, `shape`
and place (https://huggingface.co/docs/safetensors#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from arena_server.plan.errors import PlanError

# The library's own limit: a length beyond it is no safetensors file.
MAX_HEADER_BYTES = 100_000_000
BITS: Mapping[str, int] = MappingProxyType(
    {
        **{"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32},
        **{"F16": 16, "BF16": 16, "I16": 16, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8},
        **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I8": 8, "U8": 8, "BOOL": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
    }
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a checkpoint; `dtype` in the format's own words (`BF16`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Its size in the file; a format not known here counts 16 bits."""
        return self.count * BITS.get(self.dtype, 16) // 8


def read_header(path: Path) -> list[Tensor]:
    """The tensors of a file. Raises PlanError."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                raise PlanError(f"{path}: is not a safetensors file (its first bytes are no header's length)")
            text = file.read(length)
    except OSError as e:
        raise PlanError(f"{path}: cannot be read: {e.strerror}") from None
    try:
        return list(tensors(json.loads(text)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise PlanError(f"{path}: its safetensors header is damaged (fetch the file again)") from None


def tensors(header: Mapping[str, Any]) -> Iterable[Tensor]:
    """A parsed header's tensors. Raises Python's own errors if it is not of that form."""
    for name, entry in header.items():
        if name != "__metadata__":
            yield Tensor(name, str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
