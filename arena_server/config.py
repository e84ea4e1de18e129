"""The configuration: its schema, its checks, and the file it comes from.

What depends on the machine's devices is checked in `config_devices`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from arena_server.config_file import (
    Fault,
    Key,
    alias_faults,
    fault_line,
    known_key_hint,
    parse_yaml,
    read_config_file,
    reworded,
    shown,
)
from arena_server.errors import ConfigError
from arena_server.vllm_arguments import OWNED_ENV, device_count, known_arguments, normalise


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a configuration is read from, and the vLLM arguments it is checked against (None: not checked)."""

    file: Path
    known_arguments: frozenset[str] | None


def _refusal(what: str) -> PydanticCustomError:
    return PydanticCustomError("arena", "{what}", {"what": what})


def _raise_faults(faults: Iterable[Fault], value: object) -> None:
    """Report several faults from one validator, each under its own key."""
    errors = [InitErrorDetails(type=_refusal(what), loc=tuple(where), input=value) for where, what in faults]
    if errors:
        raise ValidationError.from_exception_data("configuration", errors)


def _model_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9/._:@+-]{1,200}", name):
        raise _refusal("must be 1 to 200 letters, digits and `/ . : - _ @ +`")
    if {".", ".."} & set(name.split("/")):
        # It becomes part of a URL, where clients resolve these before they send it.
        raise _refusal("must not have `.` or `..` between slashes")
    return name


def _path(value: object) -> object:
    if not isinstance(value, str | Path) or not str(value):
        raise _refusal(f"must be a path, not {shown(value)}")
    return Path(value)


def _absolute(path: Path, info: ValidationInfo) -> Path:
    """`~` expanded; a relative path is relative to the configuration file, not to where the daemon starts."""
    base = info.context.file.parent if isinstance(info.context, Origin) else Path()
    try:
        return base.absolute() / path.expanduser()
    except (RuntimeError, OSError) as e:
        raise _refusal(f"cannot be resolved: {e}") from None


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    return Path(base if os.path.isabs(base) else "~/.local/state") / "arena-server"


ModelName = Annotated[str, AfterValidator(_model_name)]
AbsolutePath = Annotated[Path, BeforeValidator(_path), AfterValidator(_absolute)]


class Section(BaseModel):
    """A mapping in the file: unknown keys are refused, and an empty value means the default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        return {key: value for key, value in raw.items() if value is not None or key not in cls.model_fields}


class ServerConfig(Section):
    """The public port."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 takes any free one")
    max_body_bytes: int = Field(
        default=64 << 20, ge=1, description="Largest request body in bytes; a larger one gets 413"
    )
    shutdown_grace_s: float = Field(default=30.0, ge=0, description="Seconds that running answers get at shutdown")


class PoolConfig(Section):
    """How many models may be awake, and how long requests wait for one."""

    max_awake_models: int | None = Field(
        default=None, ge=1, description="Most models awake at the same time; none: as many as memory allows"
    )
    memory_reserve: float = Field(default=0.05, ge=0, lt=1, description="Fraction of each device that is kept free")
    max_queue: int = Field(default=1000, ge=1, description="Most requests that wait for a model; the next gets 429")
    max_wait_s: float = Field(default=600.0, gt=0, description="Seconds a request waits for a model; then it gets 503")
    patience_s: float | None = Field(
        default=None, ge=0, description="Seconds a request leaves busy models alone; none: the measured cost of a swap"
    )
    wait_notice_s: float = Field(
        default=3.0, gt=0, description="Seconds a streaming request waits before it is told what for, in SSE comments"
    )
    load_timeout_s: float = Field(default=1800.0, gt=0, description="Seconds an engine may take to start")
    load_stall_s: float = Field(
        default=300.0, gt=0, description="Seconds a starting engine may go without any sign of progress"
    )
    sleep_timeout_s: float = Field(
        default=300.0, gt=0, description="Seconds an engine may take to fall asleep, or to wake; then it is stopped"
    )
    progress_stall_s: float = Field(
        default=180.0, gt=0, description="Seconds an engine may leave running requests without a token; then it is dead"
    )
    sleep_memory_bytes: int | None = Field(
        default=None, ge=0, description="Host RAM for the weights of sleeping models; none: half of all RAM"
    )


class ModelConfig(Section):
    """One model and the engine that serves it."""

    model: str = Field(min_length=1, description="Hugging Face id, or a path that starts with / ./ ../ or ~")
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Fraction of each of its devices' total memory that its engine may use"
    )
    engine_args: Mapping[str, JsonValue] = Field(
        default_factory=dict, description="`vllm serve` arguments, with dashes or underscores"
    )
    aliases: Annotated[tuple[ModelName, ...], Field(strict=False)] = Field(
        default=(), description="Other names that requests may use for it"
    )
    pinned: bool = Field(default=False, description="Never evict it once it is loaded")
    preload: bool = Field(default=False, description="Load it when the daemon starts")
    idle_ttl_s: float | None = Field(default=None, gt=0, description="Seconds without a request until it is evicted")
    devices: Literal["auto"] | tuple[int, ...] = Field(
        default="auto", description="Device numbers its engine runs on, or `auto`"
    )
    sleep_level: Literal["auto", 0, 1, 2] = Field(
        default="auto",
        description="0: never asleep, evicting stops it; 1: weights to host RAM; 2: weights are read again; "
        "auto: 1 where the GPU can, else 0",
    )
    env: Mapping[str, str] = Field(default_factory=dict, description="Environment variables of its engine")

    @property
    def needed_devices(self) -> int:
        """On how many devices its engine runs: the product of its parallel sizes."""
        return device_count(self.engine_args)

    @field_validator("model")
    @classmethod
    def _resolve_path(cls, model: str, info: ValidationInfo) -> str:
        if model.startswith("-") or not model.isprintable() or model != model.strip():
            raise _refusal(f"must be a Hugging Face id or a path, not {shown(model)}")
        is_path = model in (".", "..") or model.startswith(("/", "./", "../", "~"))
        return str(_absolute(Path(model), info)) if is_path else model

    @field_validator("engine_args", mode="before")
    @classmethod
    def _normalise_engine_args(cls, raw: Any, info: ValidationInfo) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        known = info.context.known_arguments if isinstance(info.context, Origin) else None
        args, faults = normalise(raw, known)
        _raise_faults((((key,), what) for key, what in faults), raw)
        return args

    @field_validator("devices", mode="before")
    @classmethod
    def _check_devices(cls, raw: Any, info: ValidationInfo) -> Any:
        if raw == "auto":
            return raw
        indices = list(raw) if isinstance(raw, list | tuple) else []
        if not indices or any(type(i) is not int or i < 0 for i in indices):
            raise _refusal(f"must be `auto` or a list of device numbers such as [0, 1], not {shown(raw)}")
        if len(set(indices)) < len(indices):
            raise _refusal("names a device twice (keep one)")
        needed = device_count(info.data.get("engine_args", {}))
        if "engine_args" in info.data and len(indices) != needed:
            sizes = "the product of the parallel sizes in `engine_args`"
            raise _refusal(f"lists {len(indices)}, but the engine runs on {needed} ({sizes})")
        return tuple(indices)

    @field_validator("env", mode="before")
    @classmethod
    def _check_env(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        _raise_faults(_env_faults(raw), raw)
        return {name: str(value) for name, value in raw.items()}


def _env_faults(env: Mapping[str, object]) -> Iterator[Fault]:
    for name, value in env.items():
        if name in OWNED_ENV:
            yield (name,), f"is set by arena-server ({OWNED_ENV[name]})"
        elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            yield (name,), "is not the name of an environment variable"
        elif isinstance(value, bool):
            # YAML reads `yes`, `on` and `true` alike, so what was meant is lost.
            yield (name,), 'must be text (put it in quotes, or write "1" or "0")'
        elif not isinstance(value, str | int | float):
            yield (name,), f"must be text, not {shown(value)}"


class Config(Section):
    """The whole configuration."""

    server: ServerConfig = Field(default_factory=ServerConfig, description="The public port")
    pool: PoolConfig = Field(default_factory=PoolConfig, description="Who may be awake, and who waits")
    engine_start: Literal["fork", "spawn"] = Field(
        default="fork", description="How an engine starts: from a process that has imported vLLM already, or anew"
    )
    state_dir: AbsolutePath = Field(
        default_factory=_default_state_dir, description="Directory of what outlives the daemon"
    )
    run_dir: AbsolutePath | None = Field(
        default=None, description="Directory of the engines' sockets; none: chosen at start"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level to log")
    models: Mapping[ModelName, ModelConfig] = Field(min_length=1, description="the models to serve, by name")

    _file: Path = PrivateAttr(Path("configuration"))

    @property
    def file(self) -> Path:
        """The file it was read from, to be named in errors."""
        return self._file

    def model_post_init(self, context: Any, /) -> None:
        """Keep the name of the file."""
        if isinstance(context, Origin):
            self._file = context.file


def load_config(path: Path) -> Config:
    """Read and check the file at `path`. Raises ConfigError, with a line for each fault, and nothing else."""
    return parse_config(read_config_file(path), Origin(path, known_arguments()))


def parse_config(data: bytes, origin: Origin) -> Config:
    """YAML text -> configuration. Raises ConfigError, with a line for each fault, and nothing else."""
    raw = parse_yaml(data, origin.file)
    faults = list(alias_faults(raw.get("models")))
    config = None
    try:
        config = Config.model_validate(raw, context=origin)
    except ValidationError as e:
        faults = [*(_fault(error, origin) for error in e.errors()), *faults]
    if faults or config is None:
        raise ConfigError(fault_line(origin.file, fault) for fault in faults)
    return config


def _fault(error: Any, origin: Origin) -> Fault:
    where: tuple[Key, ...] = error["loc"]
    if error["type"] == "extra_forbidden":
        return where, f"unknown key ({_unknown_key_hint(where, origin)})"
    if error["type"] == "missing":
        return where, f"is missing ({_section(where).model_fields[str(where[-1])].description})"
    if where[-1:] == ("[key]",):
        where = where[:-1]
    return where, reworded(error["type"], error["msg"], error["input"], error.get("ctx", {}))


def _section(where: tuple[Key, ...]) -> type[Section]:
    """The section that the key `where` stands in."""
    sections: dict[Key, type[Section]] = {"server": ServerConfig, "pool": PoolConfig, "models": ModelConfig}
    return sections[where[0]] if len(where) > 1 else Config


def _unknown_key_hint(where: tuple[Key, ...], origin: Origin) -> str:
    key, section = str(where[-1]), _section(where)
    if section is ModelConfig and key.lstrip("-").replace("-", "_") in (origin.known_arguments or ()):
        return "a vLLM argument goes under `engine_args`"
    return known_key_hint(key, section.model_fields)
