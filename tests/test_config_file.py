from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena_server.config import Config, load_config, parse_config
from arena_server.config_file import MAX_FILE_BYTES
from arena_server.config_model import ModelConfig
from arena_server.config_types import Origin
from arena_server.errors import ConfigError

FILE = Path("/etc/arena/arena.yaml")
OK = "models: {x: {model: a}}"


def parse(text: str | bytes) -> Config:
    data = text.encode() if isinstance(text, str) else text
    return parse_config(data, Origin(FILE, None))


def faults(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [line.removeprefix(f"{FILE}: ") for line in caught.value.lines]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ["is empty (it needs at least `models:`)"]),
        ("# nothing\n", ["is empty (it needs at least `models:`)"]),
        ("null", ["is empty (it needs at least `models:`)"]),
        ("[a]", ["must be a mapping with the key `models`, not a list"]),
        ("just text", ['must be a mapping with the key `models`, not "just text"']),
        ("a: b\n c: d", ["line 2, column 3: mapping values are not allowed here"]),
        ("a: [1", ["line 1, column 6: expected ',' or ']', but got '<stream end>'"]),
        ("a: 1\n--- \nb: 2", ["line 2, column 1: but found another document"]),
        ("a: *nowhere", ["line 1, column 4: found undefined alias 'nowhere'"]),
        ("a: !!python/name:os.system x", ["line 1, column 4: the type python/name:os.system is not supported"]),
        ("a: !!binary aGk=", ["line 1, column 4: the type binary is not supported"]),
        ("a: !!int ''", ['line 1, column 4: "" is not a valid int']),
        ('a: "\\0"', ["line 1, column 4: the text holds a NUL or half a surrogate pair"]),
        ('a: "\\ud800"', ["line 1, column 4: the text holds a NUL or half a surrogate pair"]),
        ("a: " + "[" * 3000, ["is nested too deeply"]),
        ("a: " + "[" * 50 + "]" * 50, ["holds too many values or is nested too deeply"]),
        ("a: &a [*a]", ["holds too many values or is nested too deeply"]),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{y}: &{y} [{', '.join(['*' + x] * 9)}]\n" for x, y in zip("abcdef", "bcdefg", strict=True)),
            ["holds too many values or is nested too deeply"],
        ),
        (
            "models:\n  x: {model: a}\n  x: {model: b}",
            ["models.x: is given twice, on lines 2 and 3 (keep one or rename it)"],
        ),
        (
            "models:\n  x: {model: a,\n  model: b}\nserver: {}\nserver: {}",
            [
                "models.x.model: is given twice, on lines 2 and 3 (keep one or rename it)",
                "server: is given twice, on lines 4 and 5 (keep one or rename it)",
            ],
        ),
        ("models: {no: {model: a}}", ["models.no: the key on line 1 is not text (put it in quotes)"]),
        ("models: {7: {model: a}}", ["models.7: the key on line 1 is not text (put it in quotes)"]),
        ("models: {[a]: {model: a}}", ["models.?: the key on line 1 is not text (put it in quotes)"]),
    ],
)
def test_each_fault_is_one_line(text: str, lines: list[str]) -> None:
    assert faults(text) == lines


def test_a_date_and_a_lone_equals_sign_stay_text() -> None:
    args = parse("models: {x: {model: a, engine_args: {revision: 2024-05-01}}}").models["x"].engine_args
    assert args == {"revision": "2024-05-01"}
    assert parse("models: {x: {model: a, env: {A: =}}}").models["x"].env == {"A": "="}


def test_merge_keys_share_settings() -> None:
    text = "models: {a: &a {model: a, engine_args: {max_model_len: 1}}, b: {<<: *a, model: b}}"
    config = parse(text)
    assert config.models["b"].model == "b"
    assert config.models["b"].engine_args == {"max_model_len": 1}


def test_bytes_that_are_no_text() -> None:
    (line,) = faults(b"\xff\xfe\xfa")
    assert line.startswith("is not YAML text: ")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    for path, line in [
        (tmp_path / "none.yaml", "cannot be read: No such file or directory (check the path and its permissions)"),
        (tmp_path, "cannot be read: Is a directory (check the path and its permissions)"),
        (Path("a\0b"), "cannot be read: embedded null byte (check the path and its permissions)"),
        (big, "is over 1048576 bytes (is it the right file?)"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert caught.value.lines == [f"{path}: {line}"]


KEYS = [*Config.model_fields, *ModelConfig.model_fields, "port", "x", "host", "tp", "max_wait_s", "a\nb", ""]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["~x", "auto"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)
MODELS = st.dictionaries(st.sampled_from(["x", "y/z", "a b"]), VALUES | st.dictionaries(st.sampled_from(KEYS), VALUES))


def only_config_errors(data: bytes) -> None:
    lines = None
    try:
        parse(data)
    except ConfigError as e:
        lines = e.lines
    assert lines != []
    for line in lines or ():
        assert line.startswith(f"{FILE}: ")
        assert len(line.splitlines()) == 1
        assert len(line) < 1000


@given(st.binary(max_size=60))
def test_bytes_raise_nothing_else(data: bytes) -> None:
    only_config_errors(data)


@given(st.text("models:xy{}[],&*!|>%@`'\"#?- \n\t<=0.1e~\\u\u2028", max_size=60))
def test_text_raises_nothing_else(text: str) -> None:
    only_config_errors(text.encode())


@given(st.sampled_from(["int", "float", "bool", "null", "str", "map", "seq", "set", "timestamp"]), st.text(max_size=6))
def test_tags_raise_nothing_else(tag: str, text: str) -> None:
    only_config_errors(f"models: !!{tag} {json.dumps(text)}".encode())


@given(VALUES | st.fixed_dictionaries({"models": MODELS}))
def test_values_raise_nothing_else(raw: Any) -> None:
    only_config_errors(json.dumps(raw).replace("NaN", ".nan").replace("Infinity", ".inf").encode())


@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 400, "9" * 5000, "1.0e+999", "5e-324"])
@pytest.mark.parametrize("where", ["pool: {max_wait_s: %s}", "server: {port: %s}", "x: %s"])
def test_numbers_out_of_range_raise_nothing_else(where: str, number: str) -> None:
    only_config_errors(f"{where % number}\n{OK}".encode())
