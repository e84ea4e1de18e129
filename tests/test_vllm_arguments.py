from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena_server import vllm_arguments
from arena_server.vllm_arguments import engine_argv, known_arguments, normalise, read_arguments

KNOWN = frozenset(
    {"max_model_len", "enable_prefix_caching", "tensor_parallel_size", "compilation_config", "uds", "enable_sleep_mode"}
)

ENGINE_SOURCE = """
class EngineArgs:
    _private: int = 0
    def add_cli_args(parser):
        group.add_argument("--model", **kwargs["model"])
        group.add_argument("--max-model-len", "-mml", default="--not-a-name")
        group.add_argument("--tensor-parallel-size", "-tp")
        group.add_argument("--enable-log-requests", help="see --nothing")
"""
FRONTEND_SOURCE = """
class BaseFrontendArgs:
    chat_template: str | None = None
class FrontendArgs(BaseFrontendArgs):
    uds: str | None = None
    '''Docs.'''
class Other:
    secret: int = 0
parser.add_argument("model_tag")
parser.add_argument("--headless", action="store_true")
"""
EXPECTED = frozenset(
    ("model", "max_model_len", "tensor_parallel_size", "enable_log_requests", "chat_template", "uds", "headless")
)


def package(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize("frontend", ["entrypoints/launchers/cli_args.py", "entrypoints/openai/cli_args.py"])
def test_both_layouts_of_vllm_are_read(tmp_path: Path, frontend: str) -> None:
    files = {"engine/arg_utils.py": ENGINE_SOURCE, frontend: FRONTEND_SOURCE}
    assert read_arguments(package(tmp_path, files)) == EXPECTED


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"engine/arg_utils.py": ENGINE_SOURCE},
        {"entrypoints/launchers/cli_args.py": FRONTEND_SOURCE},
        {"engine/arg_utils.py": ENGINE_SOURCE, "entrypoints/moved/cli_args.py": FRONTEND_SOURCE},
        {"engine/arg_utils.py": "def (", "entrypoints/launchers/cli_args.py": FRONTEND_SOURCE},
        {"engine/arg_utils.py": "for n in names: add(n)", "entrypoints/launchers/cli_args.py": FRONTEND_SOURCE},
    ],
)
def test_an_unknown_layout_is_none_rather_than_half_a_list(tmp_path: Path, files: dict[str, str]) -> None:
    assert read_arguments(package(tmp_path, files)) is None


def test_no_vllm_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert known_arguments() is None


def test_vllm_is_not_imported() -> None:
    code = (
        "import sys; from arena_server.config import known_arguments; known_arguments();"
        "print([m for m in ('vllm', 'torch', 'asyncio', 'fastapi') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("key", ["max_model_len", "max-model-len", "--max-model-len", "--max_model_len"])
def test_every_spelling_is_the_same_argument(key: str) -> None:
    assert normalise({key: 5}, KNOWN) == ({"max_model_len": 5}, [])


@pytest.mark.parametrize("key", ["tp", "-tp", "--tensor-parallel-size"])
def test_short_names_of_parallel_sizes(key: str) -> None:
    assert normalise({key: 2}, KNOWN) == ({"tensor_parallel_size": 2}, [])


def test_a_negated_flag_is_the_flag_turned_off() -> None:
    assert normalise({"--no-enable-prefix-caching": True}, KNOWN) == ({"enable_prefix_caching": False}, [])
    assert normalise({"no_enable_prefix_caching": False}, None) == ({"enable_prefix_caching": True}, [])


@pytest.mark.parametrize(
    ("raw", "faults"),
    [
        (
            {"max_model_len": 1, "--max-model-len": 2},
            {"--max-model-len": "is the same argument as `max_model_len` (keep one)"},
        ),
        ({"tp": 1, "tensor_parallel_size": 1}, {"tensor_parallel_size": "is the same argument as `tp` (keep one)"}),
        (
            {"max_modl_len": 1},
            {"max_modl_len": "the installed vLLM has no such argument (did you mean `max_model_len`?)"},
        ),
        ({"zzz": 1}, {"zzz": "the installed vLLM has no such argument (see `vllm serve --help=all`)"}),
        ({"no_enable_prefix_caching": 1}, {"no_enable_prefix_caching": "must be true or false"}),
        (
            {"compilation_config.mode": 3},
            {"compilation_config.mode": "has a dot in it (nest it: `compilation_config: {...}`)"},
        ),
        ({"a b": 1}, {"a b": "is not the name of an argument (use letters, digits and underscores)"}),
        ({"": 1}, {"": "is not the name of an argument (use letters, digits and underscores)"}),
        ({"uds=/x": 1}, {"uds=/x": "is not the name of an argument (use letters, digits and underscores)"}),
        ({"tp": 0}, {"tp": "must be a whole number of at least 1"}),
        ({"tp": True}, {"tp": "must be a whole number of at least 1"}),
        ({"tp": "2"}, {"tp": "must be a whole number of at least 1"}),
        (
            {"max_model_len": [1, "--port=80"]},
            {"max_model_len": "has an item that starts with `-`, which vLLM takes for another argument"},
        ),
        (
            {"max_model_len": ["-q"]},
            {"max_model_len": "has an item that starts with `-`, which vLLM takes for another argument"},
        ),
        (
            {"max_model_len": [-1.5]},
            {"max_model_len": "has an item that starts with `-`, which vLLM takes for another argument"},
        ),
        (
            {"compilation_config": {"a": [float("inf")]}},
            {"compilation_config": "holds a number that is not finite (vLLM takes none)"},
        ),
        ({"max_model_len": [1, -1]}, {}),
        ({"max_model_len": -1, "tp": None}, {}),
    ],
)
def test_faults(raw: dict[str, object], faults: dict[str, str]) -> None:
    assert dict(normalise(raw, KNOWN)[1]) == faults


@pytest.mark.parametrize("name", sorted(vllm_arguments.OWNED))
@pytest.mark.parametrize("prefix", ["", "--", "no_"])
def test_owned_arguments_are_refused_in_every_spelling(name: str, prefix: str) -> None:
    for known in (None, KNOWN, KNOWN | {name}):
        _, faults = normalise({prefix + name.replace("_", "-"): True}, known)
        assert [what for _, what in faults] == [f"is set by arena-server ({vllm_arguments.OWNED[name]})"]


@pytest.mark.parametrize(
    ("args", "argv"),
    [
        ({}, []),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enforce_eager": False}, ["--no-enforce-eager"]),
        ({"disable_log_stats": True}, ["--disable-log-stats"]),
        ({"disable_log_stats": False}, []),
        ({"seed": None}, []),
        ({"seed": -1}, ["--seed=-1"]),
        ({"watermark": 0.5}, ["--watermark=0.5"]),
        ({"dtype": "--help"}, ["--dtype=--help"]),
        ({"cudagraph_capture_sizes": [1, 2]}, ["--cudagraph-capture-sizes", "1", "2"]),
        ({"cudagraph_capture_sizes": []}, []),
        ({"lora_modules": [{"name": "a"}, "b=c"]}, ["--lora-modules", '{"name": "a"}', "b=c"]),
        ({"allowed_origins": ["*", "x"]}, ['--allowed-origins=["*", "x"]']),
        ({"middleware": ["a.b", "c.d"]}, ["--middleware=a.b", "--middleware=c.d"]),
        ({"hf_overrides": {"a.b": [1, True]}}, ['--hf-overrides={"a.b": [1, true]}']),
        ({"seed": 1, "dtype": "half"}, ["--seed=1", "--dtype=half"]),
    ],
)
def test_engine_argv(args: dict[str, object], argv: list[str]) -> None:
    assert engine_argv(args) == argv


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "a_text": TEXT,
            "a_number": st.integers(),
            "a_flag": st.booleans(),
            "a_mapping": st.dictionaries(TEXT, JSON, max_size=3),
            "some_texts": st.lists(TEXT, min_size=1, max_size=4),
            "some_numbers": st.lists(st.integers(min_value=-3, max_value=9), min_size=1, max_size=4),
        },
    )
)
def test_what_passes_the_check_comes_back_from_a_parser(raw: dict[str, Any]) -> None:
    args, faults = normalise(raw, None)
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    parser.add_argument("--a-text")
    parser.add_argument("--a-number", type=int)
    parser.add_argument("--a-flag", action=argparse.BooleanOptionalAction)
    parser.add_argument("--a-mapping", type=json.loads)
    parser.add_argument("--some-texts", nargs="+")
    parser.add_argument("--some-numbers", nargs="+", type=int)
    if faults:
        assert [key for key, _ in faults] == ["some_texts"]
        assert any(item.startswith("-") for item in raw["some_texts"])
    else:
        assert vars(parser.parse_args(engine_argv(args))) == raw


REAL_PARSER = """
import argparse, json, sys
from vllm.utils.argparse_utils import FlexibleArgumentParser
try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:
    from vllm.entrypoints.openai.cli_args import make_arg_parser
parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
actions = [a for a in parser._actions if a.option_strings and a.dest != "help"]
def names(of):
    options = (o for a in of for o in a.option_strings if o.startswith("--") and not o.startswith("--no-"))
    return sorted(o[2:].replace("-", "_") for o in options)
json.dump({
    "all": names(actions),
    "without_no": names(a for a in actions if not isinstance(a, argparse.BooleanOptionalAction)
                        and (a.nargs == 0 or a.const is True)),
    "json_lists": names(a for a in actions if a.type is json.loads and isinstance(a.default, list)),
    "repeated": names(a for a in actions if isinstance(a, argparse._AppendAction)),
    "parsed": {k: v for k, v in vars(parser.parse_args(json.load(sys.stdin))).items() if k in sys.argv},
}, open(sys.argv[1], "w"))
"""


@pytest.mark.vllm
def test_the_installed_vllm_agrees(tmp_path: Path) -> None:
    known = known_arguments()
    if known is None:
        pytest.skip("vLLM is not installed")
    args: dict[str, object] = {
        "max_model_len": 4096,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "hf_token": False,
        "hf_overrides": {"a.b": {"c": [1.5]}},
        "cudagraph_capture_sizes": [1, 2, 4],
        "allowed_origins": ["https://a.example", "*"],
        "middleware": ["a.b", "c.d"],
        "revision": "-1.5",
        "chat_template": "{{ a }} --port=1 -O3",
    }
    assert normalise(args, known) == (args, [])
    out = tmp_path / "out.json"
    subprocess.run(
        [sys.executable, "-c", REAL_PARSER, str(out), *args],
        input=json.dumps(engine_argv(args)),
        text=True,
        check=True,
        cwd=tmp_path,
    )
    real = json.loads(out.read_text())
    assert known == set(real["all"]), sorted(known ^ set(real["all"]))
    assert set(real["without_no"]) - set(vllm_arguments.OWNED) == vllm_arguments.ONE_WAY
    assert set(real["json_lists"]) == vllm_arguments.JSON_LISTS
    assert set(real["repeated"]) == vllm_arguments.REPEATED
    assert vllm_arguments.OWNED.keys() - known <= {"grpc_port"}  # which vLLM 0.24 has not
    assert set(vllm_arguments.SHORT_NAMES.values()) <= known
    assert real["parsed"] == args | {"hf_token": None}
