"""The configuration file: its YAML as plain values, and each fault in it as one line a person can act on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from arena_server.errors import ConfigError

MAX_FILE_BYTES = 1 << 20
# A file within its size can still unfold without end through YAML's anchors (`&a [*a]`).
MAX_VALUES = 100_000
MAX_DEPTH = 32

TAG = "tag:yaml.org,2002:"
PLAIN_TAGS = frozenset(TAG + kind for kind in ("str", "int", "float", "bool", "null", "map", "seq"))

Key = str | int
Fault = tuple[Sequence[Key], str]
"""Where (the keys from the root of the file) and what is wrong (and what to do)."""

# pydantic's error types in the words of someone who edits YAML. `{x}` comes from the error's own context.
WORDING = MappingProxyType(
    {
        "int_type": "must be a whole number",
        "float_type": "must be a number",
        "finite_number": "must be a finite number",
        "bool_type": "must be true or false",
        "string_type": "must be text",
        "string_too_short": "must not be empty",
        "string_pattern_mismatch": "must match {pattern}",
        "tuple_type": "must be a list",
        "dict_type": "must be a mapping",
        "mapping_type": "must be a mapping",
        "model_type": "must be a mapping",
        "too_short": "must have at least {min_length} entry",
        "greater_than": "must be over {gt}",
        "greater_than_equal": "must be at least {ge}",
        "less_than": "must be under {lt}",
        "less_than_equal": "must be at most {le}",
        "decimal_max_places": "must have at most {decimal_places} digits after the point",
        "literal_error": "must be {expected}",
        "enum": "must be {expected}",
    }
)
# Where the value itself says nothing more than the sentence does.
VALUE_NOT_SHOWN = frozenset({"string_too_short", "too_short"})


class PlainLoader(yaml.SafeLoader):
    """SafeLoader that yields nothing but JSON's types, and fails with YAMLError alone.

    Dates stay text: a revision such as `2024-05-01` is a name.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - yaml's own name and type; read only
        first: [(tag, form) for tag, form in resolvers if tag not in (TAG + "timestamp", TAG + "value")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of `node`. Raises YAMLError where SafeLoader lets KeyError, IndexError and others out."""
        if node.tag not in PLAIN_TAGS:
            raise _fault_at(node, f"the type {node.tag.removeprefix(TAG)} is not supported")
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            kind = node.tag.removeprefix(TAG)
            raise _fault_at(node, f"{shown(node.value)} is not a valid {kind}") from None
        if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
            # Neither can stand in a command line, a path or a log.
            raise _fault_at(node, "the text holds a NUL or half a surrogate pair")
        return value


def _fault_at(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_config_file(file: Path) -> bytes:
    """The file's bytes. Raises ConfigError when it cannot be read or is over MAX_FILE_BYTES."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise ConfigError([f"{file}: cannot be read: {reason} (check the path and its permissions)"]) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError([f"{file}: is over {MAX_FILE_BYTES} bytes (is it the right file?)"])
    return data


def parse_yaml(data: bytes, file: Path) -> dict[str, Any]:
    """YAML text -> its root mapping, of JSON's types with text keys only. `file` is named in ConfigError."""
    try:
        # The loader decodes the first bytes already in its constructor.
        loader = PlainLoader(data)
        node = loader.get_single_node()
        if node is None or (node.tag == TAG + "null" and isinstance(node, yaml.ScalarNode)):
            raise ConfigError([f"{file}: is empty (it needs at least `models:`)"])
        faults = _key_faults(node)
        if faults:
            raise ConfigError(fault_line(file, fault) for fault in faults)
        root = loader.construct_document(node)
    except yaml.YAMLError as e:
        raise ConfigError([_yaml_error_line(e, file)]) from None
    except RecursionError:
        raise ConfigError([f"{file}: is nested too deeply"]) from None
    if not isinstance(root, dict):
        raise ConfigError([f"{file}: must be a mapping with the key `models`, not {shown(root)}"])
    if not _is_small(root):
        raise ConfigError([f"{file}: holds too many values or is nested too deeply"])
    return root


def _key_faults(root: yaml.Node) -> list[Fault]:
    """Keys given twice (PyYAML would silently keep the last) or not text (`no:` and `7:` are not)."""
    found: list[tuple[int, Fault]] = []
    seen: set[int] = set()
    stack: list[tuple[tuple[Key, ...], yaml.Node]] = [((), root)]
    while stack:
        where, node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            stack.extend(((*where, i), item) for i, item in enumerate(node.value))
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == TAG + "merge":
                stack.append((where, value))
                continue
            number = key.start_mark.line + 1
            here = (*where, key.value if isinstance(key, yaml.ScalarNode) else "?")
            if key.tag != TAG + "str" or not isinstance(key, yaml.ScalarNode):
                found.append((number, (here, f"the key on line {number} is not text (put it in quotes)")))
            elif key.value in lines:
                both = f"on lines {lines[key.value]} and {number}"
                found.append((number, (here, f"is given twice, {both} (keep one or rename it)")))
            else:
                lines[key.value] = number
            stack.append((here, value))
    return [fault for _, fault in sorted(found, key=lambda pair: pair[0])]


def _is_small(root: object) -> bool:
    count = 0
    stack: list[tuple[object, int]] = [(root, 0)]
    while stack:
        value, depth = stack.pop()
        count += 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            return False
        if isinstance(value, dict):
            stack.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, list):
            stack.extend((item, depth + 1) for item in value)
    return True


def _yaml_error_line(error: yaml.YAMLError, file: Path) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        problem = " ".join(str(error.problem or error.context).split())
        return f"{file}: line {mark.line + 1}, column {mark.column + 1}: {problem}"
    return f"{file}: is not YAML text: {' '.join(str(error).split())}"


def shown(value: object) -> str:
    """`value` as it may stand in YAML, in one short line; text in quotes, so that "80" is not taken for 80."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=not value.isprintable())
    else:
        text = json.dumps(value) if isinstance(value, bool | None) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def fault_line(file: Path, fault: Fault) -> str:
    """`FILE: dotted.key: what is wrong`."""
    where, what = fault
    return ": ".join(part for part in (str(file), dotted(where), what) if part)


def dotted(where: Sequence[Key]) -> str:
    """A key with all that it stands under: `models.NAME.pinned`."""
    return ".".join(_one_line(str(key))[:200] or '""' for key in where)


def reworded(kind: str, message: str, value: object, context: Mapping[str, Any]) -> str:
    """One of pydantic's errors (its type, message, input and context) as a short sentence."""
    if kind not in WORDING:
        return message
    sentence = WORDING[kind].format_map(dict(context))
    if kind in VALUE_NOT_SHOWN:
        return sentence
    quoted = kind == "string_type" and isinstance(value, bool | int | float)
    return f"{sentence}, not {shown(value)}" + (" (put it in quotes)" if quoted else "")


def known_key_hint(key: str, known: Iterable[str]) -> str:
    """What to do about an unknown key, given the known ones."""
    names = list(known)
    near = get_close_matches(key[:80], names, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(names)}"
