"""JSON into dataclasses, checked: whatever answers at the URL may be something else, or of another version.

Written here and not with pydantic, whose import would take longer than all else that `status` does.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class WrongShape(Exception):
    """The value is not what was expected; the message names the place."""


def read(kind: type[T], value: object) -> T:
    """The value as that dataclass. Keys it does not know are passed over; one that may be null may be missing."""
    result: T = _read(kind, value, "")
    return result


def _read(kind: Any, value: Any, where: str) -> Any:
    if get_origin(kind) is UnionType:
        (inner,) = (k for k in get_args(kind) if k is not NoneType)
        return None if value is None else _read(inner, value, where)
    if get_origin(kind) is tuple:
        items = _checked(list, value, where)
        return tuple(_read(get_args(kind)[0], item, f"{where}.{i}") for i, item in enumerate(items))
    if get_origin(kind) is dict:
        return _checked(dict, value, where)  # whatever is in it
    if is_dataclass(kind):
        return _record(kind, _checked(dict, value, where), where)
    if kind in (int, float):
        return kind(_number(value, where))
    return _checked(kind, value, where)


def _record(kind: Any, found: dict[str, Any], where: str) -> Any:
    return kind(**{name: _read(k, found.get(name), f"{where}.{name}") for name, k in _hints(kind).items()})


def _checked(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind):
        raise WrongShape(f"`{where.lstrip('.') or 'the answer'}` is not of the kind `{kind.__name__}`")
    return value


def _number(value: Any, where: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WrongShape(f"`{where.lstrip('.')}` is not a number")
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}
