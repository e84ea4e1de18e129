"""Changes a configuration's YAML text, and leaves all the rest of it as it stands: comments, order, spaces."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from difflib import SequenceMatcher
from io import StringIO
from pathlib import Path
from typing import Any

from arena_server.config_file import parse_yaml
from arena_server.errors import ConfigError
from arena_server.plan.change import Change
from arena_server.plan.errors import PlanError

BY_HAND = "write these by hand"
CRLF = "\r\n"
COMMENT = re.compile(r"(?:^|\s)(#.*)")


def edited(text: str, changes: Sequence[Change], file: Path) -> str:
    """The text with the changes made. Raises PlanError where its YAML does not let them be made one by one.

    ruamel.yaml makes the changes, and then only the lines that it changed are taken: written as a whole it would also
    lose spaces that line things up. What comes out is read again, and is right, with every comment, or not taken at
    all.
    """
    wanted = _expected(text, changes, file)
    # ruamel.yaml splits the ends of such lines after comments.
    before, after = _round_trips(text.replace(CRLF, "\n"), changes, file)
    if CRLF in text:
        before, after = before.replace("\n", CRLF), after.replace("\n", CRLF)
    right = [c for c in (_only_changed(text, before, after), after) if c is not None and _reads_as(c, wanted, file)]
    for candidate in right:
        if not _comments(text) - _comments(candidate):
            return candidate
    keys = "; ".join(str(change) for change in changes)
    why = "a comment would be lost" if right else "its YAML shares values between models (anchors, `<<`)"
    raise PlanError(f"{file}: {why}: {BY_HAND}: {keys}")


def _comments(text: str) -> Counter[str]:
    """All that may be comments. (Of values that look so none is lost, either.)"""
    return Counter(found.strip() for line in text.splitlines() for found in COMMENT.findall(line))


def _expected(text: str, changes: Sequence[Change], file: Path) -> dict[str, Any]:
    # Values that the file shares through anchors are one object here, too.
    root: dict[str, Any] = _unshared(parse_yaml(text.encode(), file))
    for change in changes:
        section = root["models"][change.name]
        for key in change.where[:-1]:
            if section.get(_spelled(section, key)) is None:
                section[_spelled(section, key)] = {}
            section = section[_spelled(section, key)]
        section[_spelled(section, change.where[-1])] = change.value
    return root


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _reads_as(text: str, wanted: Mapping[str, Any], file: Path) -> bool:
    try:
        return parse_yaml(text.encode(), file) == wanted
    except ConfigError:
        return False


def _spelled(section: Mapping[str, Any], key: str) -> str:
    """The key as it stands there: vLLM's arguments may be written with dashes."""
    return next((k for k in section if str(k).lstrip("-").replace("-", "_") == key), key)


def _round_trips(text: str, changes: Sequence[Change], file: Path) -> tuple[str, str]:
    """The text as ruamel.yaml writes it, without the changes and with them."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.util import load_yaml_guess_indent

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    try:
        _, indent, dash = load_yaml_guess_indent(text)
        yaml.indent(mapping=_map_indent(text), sequence=indent or 2, offset=dash or 0)
        before = _dumped(yaml, yaml.load(text))
        root = yaml.load(text)  # anew, as what was written once has lost comments
        for change in changes:
            _set(root["models"], change)
        return before, _dumped(yaml, root)
    except (YAMLError, ValueError, TypeError, AttributeError, KeyError) as e:
        reason = " ".join(str(e).split())
        raise PlanError(f"{file}: cannot be edited in place ({reason}): {BY_HAND}: {changes[0]} ...") from None


def _map_indent(text: str) -> int:
    """Spaces before the first key below `models`."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("models:"):
            below = (inner for inner in lines if inner.strip() and not inner.lstrip().startswith("#"))
            inner = next(below, "")
            return len(inner) - len(inner.lstrip()) or 2
    return 2


def _dumped(yaml: Any, root: Any) -> str:
    out = StringIO()
    yaml.dump(root, out)
    return out.getvalue()


def _set(models: Any, change: Change) -> None:
    section = models[change.name]
    if section is None:
        raise TypeError(f"models.{change.name} is empty")
    if any(other is section for name, other in models.items() if name != change.name):
        raise ValueError(f"models.{change.name} is an alias of another model")
    for part in change.where[:-1]:
        key = _spelled(section, part)
        inner = section.get(key)
        if not inner:
            inner = _flow_map()
        elif _is_shared(models, change.name, key, inner):
            inner = deepcopy(inner)  # or the others that have it would change, too
            inner.yaml_set_anchor(None)
        if section.get(key) is not inner:
            section[key] = inner
        section = inner
    section[_spelled(section, change.where[-1])] = change.value


def _flow_map() -> Any:
    from ruamel.yaml.comments import CommentedMap

    found = CommentedMap()
    found.fa.set_flow_style()
    return found


def _is_shared(models: Any, name: str, key: str, inner: Any) -> bool:
    anchor = inner.yaml_anchor() if hasattr(inner, "yaml_anchor") else None
    return anchor is not None or any(
        isinstance(other, Mapping) and other.get(key) is inner for n, other in models.items() if n != name
    )


def _only_changed(text: str, before: str, after: str) -> str | None:
    """The text, with only those lines of `after` that differ from `before`; None if their lines do not match up."""
    lines, old, new = (t.splitlines(keepends=True) for t in (text, before, after))
    if len(lines) != len(old):
        return None
    result: list[str] = []
    for kind, i1, i2, j1, j2 in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        result += lines[i1:i2] if kind == "equal" else new[j1:j2]
    return "".join(result)
