"""The `vllm serve` arguments: which exist, which arena-server sets itself, and how `engine_args` become tokens.

They are read from the installed vLLM's source text. Importing vLLM would take 15 to 40 seconds, and the
daemon has to be up in one or two.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

ENGINE_ARGUMENTS = "engine/arg_utils.py"
# The frontend's file moved between vLLM 0.24 and 0.32; whichever exists is read.
FRONTEND_ARGUMENTS = ("entrypoints/launchers/cli_args.py", "entrypoints/openai/cli_args.py")

# Arguments every supported vLLM has. If one is not found, the source is laid out in a way unknown here.
LANDMARKS = frozenset({"model", "uds", "max_model_len", "tensor_parallel_size", "enable_log_requests"})

SHORT_NAMES = MappingProxyType(
    {"tp": "tensor_parallel_size", "pp": "pipeline_parallel_size", "dp": "data_parallel_size"}
)

# Each multiplies the number of devices an engine occupies.
PARALLEL_SIZES = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "prefill_context_parallel_size",
)

# Set by arena-server, or opening a second way into the engine: name -> what to do instead.
OWNED = MappingProxyType(
    {
        "model": "use the model's own `model` key",
        "served_model_name": "use the model's name and its `aliases`",
        "gpu_memory_utilization": "use the model's own `gpu_memory_utilization` key",
        "device_ids": "use the model's own `devices` key",
        "config": "write its options under `engine_args`",
        "api_key": "remove it",
        "api_server_count": "remove it",
        "data_parallel_multi_port_external_lb": "remove it",
        "data_parallel_supervisor_port": "remove it",
        "enable_sleep_mode": "remove it",
        "enable_ssl_refresh": "remove it",
        "grpc": "remove it",
        "grpc_port": "remove it",
        "headless": "remove it",
        "host": "remove it",
        "port": "remove it",
        "root_path": "remove it",
        "ssl_ca_certs": "remove it",
        "ssl_cert_reqs": "remove it",
        "ssl_certfile": "remove it",
        "ssl_ciphers": "remove it",
        "ssl_keyfile": "remove it",
        "uds": "remove it",
    }
)

# The same among an engine's environment variables: name -> what to do instead.
OWNED_ENV = MappingProxyType(
    {
        "CUDA_VISIBLE_DEVICES": "use the model's `devices` key",
        "HIP_VISIBLE_DEVICES": "use the model's `devices` key",
        "ROCR_VISIBLE_DEVICES": "use the model's `devices` key",
        "CUDA_DEVICE_ORDER": "remove it",  # `devices` would mean other GPUs
        "VLLM_API_KEY": "remove it",  # the engine would refuse arena-server's own requests
        "VLLM_SERVER_DEV_MODE": "remove it",
        "VLLM_WORKER_MULTIPROC_METHOD": "remove it",
    }
)

# These have no `--no-` form: off is their default, and `--no-disable-log-stats` would end the engine.
ONE_WAY = frozenset({"aggregate_engine_logging", "disable_log_stats", "hf_token"})
# These take one JSON list, not several tokens.
JSON_LISTS = frozenset({"allowed_headers", "allowed_methods", "allowed_origins"})
# These are given once for each item.
REPEATED = frozenset({"middleware"})


def known_arguments() -> frozenset[str] | None:
    """The names (with underscores) of all `vllm serve` arguments of the installed vLLM.

    None when vLLM is not installed or its source is laid out in an unknown way. Imports nothing of vLLM.
    """
    try:
        spec = importlib.util.find_spec("vllm")
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return read_arguments(Path(spec.submodule_search_locations[0]))


def read_arguments(package: Path) -> frozenset[str] | None:
    """As `known_arguments`, for the vLLM whose package directory is `package`."""
    frontends = [package / name for name in FRONTEND_ARGUMENTS if (package / name).is_file()]
    names: set[str] = set()
    try:
        for file in (package / ENGINE_ARGUMENTS, *frontends):
            for node in ast.walk(ast.parse(file.read_bytes())):
                names.update(_declared(node))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    return frozenset(names) if names >= LANDMARKS else None


def _declared(node: ast.AST) -> Iterator[str]:
    """Names `node` declares: `add_argument("--name")`, or a field of a class ending in FrontendArgs.

    The fields of EngineArgs are left out: each has its `add_argument`, and some are no arguments at all.
    """
    match node:
        case ast.Call(func=ast.Attribute(attr="add_argument")):
            for argument in node.args:
                match argument:
                    case ast.Constant(value=str(text)) if text.startswith("--"):
                        yield text.removeprefix("--").replace("-", "_")
        case ast.ClassDef() if node.name.endswith("FrontendArgs"):
            for statement in node.body:
                match statement:
                    case ast.AnnAssign(target=ast.Name(id=name)):
                        yield name


def normalise(
    raw: Mapping[str, object], known: frozenset[str] | None
) -> tuple[dict[str, object], list[tuple[str, str]]]:
    """`engine_args` as written -> (the same under vLLM's names with underscores, faults).

    A fault is (the key as written, what is wrong with it). `known` is from `known_arguments`; None skips the
    check that an argument exists.
    """
    args: dict[str, object] = {}
    written: dict[str, str] = {}
    faults: list[tuple[str, str]] = []
    for key, given in raw.items():
        name, value = _canonical(key, given, known)
        if name in written:
            faults.append((key, f"is the same argument as `{written[name]}` (keep one)"))
            continue
        written[name] = key
        fault = _name_fault(name, known) or _value_fault(name, value)
        if fault:
            faults.append((key, fault))
        args[name] = value
    return args, faults


def _canonical(key: str, value: object, known: frozenset[str] | None) -> tuple[str, object]:
    name = key.lstrip("-").replace("-", "_")
    name = SHORT_NAMES.get(name, name)
    if name.startswith("no_") and isinstance(value, bool) and name not in (known or ()):
        # Under one name, so that `no_enable_sleep_mode` cannot slip past the check for owned arguments.
        return name.removeprefix("no_"), not value
    return name, value


def _name_fault(name: str, known: frozenset[str] | None) -> str | None:
    if name in OWNED:
        return f"is set by arena-server ({OWNED[name]})"
    if "." in name:
        return f"has a dot in it (nest it: `{name.partition('.')[0]}: {{...}}`)"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        return "is not the name of an argument (use letters, digits and underscores)"
    if known is None or name in known:
        return None
    if name.startswith("no_") and name.removeprefix("no_") in known:
        return "must be true or false"
    near = get_close_matches(name[:80], known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "see `vllm serve --help=all`"
    return f"the installed vLLM has no such argument ({hint})"


def _value_fault(name: str, value: object) -> str | None:
    if name in PARALLEL_SIZES and value is not None and (type(value) is not int or value < 1):
        return "must be a whole number of at least 1"
    if not _is_finite(value):
        return "holds a number that is not finite (vLLM takes none)"
    if isinstance(value, list) and name not in JSON_LISTS:
        for item in value:
            # vLLM's parser would take `--port=1` among the items for an argument of its own.
            if _token(item).startswith("-") and type(item) is not int:
                return "has an item that starts with `-`, which vLLM takes for another argument"
    return None


def _is_finite(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def device_count(engine_args: Mapping[str, Any]) -> int:
    """On how many devices an engine with these normalised `engine_args` runs."""
    return math.prod(engine_args.get(name) or 1 for name in PARALLEL_SIZES)


def engine_argv(engine_args: Mapping[str, object]) -> list[str]:
    """Normalised `engine_args` -> command line tokens for `vllm serve`, in the same order.

    True -> `--flag`, False -> `--no-flag`, None and empty lists -> nothing, list -> `--flag a b`, mapping ->
    `--flag=<json>`, the rest `--flag=value` (so a value may start with a dash).
    """
    return [token for name, value in engine_args.items() for token in _tokens(name, value)]


def _tokens(name: str, value: object) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if value is None or (value is False and name in ONE_WAY):
        return []
    if isinstance(value, bool):
        return [flag if value else "--no-" + flag.removeprefix("--")]
    if isinstance(value, list) and name not in JSON_LISTS:
        items = [_token(item) for item in value]
        if name in REPEATED:
            return [f"{flag}={item}" for item in items]
        return [flag, *items] if items else []
    return [f"{flag}={_token(value)}"]


def _token(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
