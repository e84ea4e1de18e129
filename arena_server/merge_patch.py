"""JSON Merge Patch (RFC 7396): null removes, objects are gone into, anything else takes the place of what was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merged(target: object, patch: object) -> Any:
    """`target` with `patch` applied to it, as RFC 7396 has it in its second section."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result
