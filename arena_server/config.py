"""The configuration: its schema, its checks, and the file it comes from.

What depends on the machine's devices is checked in `config_devices`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    JsonValue,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

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
from arena_server.config_types import AbsolutePath, HttpUrl, ModelName, Origin, Section, absolute, raise_faults, refusal
from arena_server.errors import ConfigError
from arena_server.vllm_arguments import OWNED_ENV, device_count, known_arguments, normalise


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    return Path(base if os.path.isabs(base) else "~/.local/state") / "arena-server"


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
            raise refusal(f"must be a Hugging Face id or a path, not {shown(model)}")
        is_path = model in (".", "..") or model.startswith(("/", "./", "../", "~"))
        return str(absolute(Path(model), info)) if is_path else model

    @field_validator("engine_args", mode="before")
    @classmethod
    def _normalise_engine_args(cls, raw: Any, info: ValidationInfo) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        known = info.context.known_arguments if isinstance(info.context, Origin) else None
        args, faults = normalise(raw, known)
        raise_faults((((key,), what) for key, what in faults), raw)
        return args

    @field_validator("devices", mode="before")
    @classmethod
    def _check_devices(cls, raw: Any, info: ValidationInfo) -> Any:
        if raw == "auto":
            return raw
        indices = list(raw) if isinstance(raw, list | tuple) else []
        if not indices or any(type(i) is not int or i < 0 for i in indices):
            raise refusal(f"must be `auto` or a list of device numbers such as [0, 1], not {shown(raw)}")
        if len(set(indices)) < len(indices):
            raise refusal("names a device twice (keep one)")
        needed = device_count(info.data.get("engine_args", {}))
        if "engine_args" in info.data and len(indices) != needed:
            sizes = "the product of the parallel sizes in `engine_args`"
            raise refusal(f"lists {len(indices)}, but the engine runs on {needed} ({sizes})")
        return tuple(indices)

    @field_validator("env", mode="before")
    @classmethod
    def _check_env(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        raise_faults(_env_faults(raw), raw)
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


class ArenaConfig(Section):
    """Blind battles, and what is kept of them."""

    database: str | None = Field(
        default=None, min_length=1, description="SQLAlchemy URL of the votes' database; none: SQLite in `state_dir`"
    )
    store_texts: bool = Field(default=False, description="Keep prompts and answers of battles in the database, too")
    paced: bool = Field(
        default=True, description="Hide each side's speed: both answers of a battle are let out at one pace"
    )
    min_chars_per_s: float = Field(
        default=40.0, gt=0, description="A paced battle does not wait for a side that is slower than this"
    )
    max_chars_per_s: float = Field(
        default=400.0, gt=0, description="A paced battle lets answers out no faster than this, for each side"
    )
    weights: Mapping[ModelName, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="How often a model is drawn for battles, against 1 for others; 0: never"
    )
    awake_preference: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Part of the draws that is kept for pairs of awake models",
    )
    battle_ttl_s: float = Field(default=3600.0, gt=0, description="Seconds a battle waits for its vote, or next turn")
    battle_memory_bytes: int = Field(
        default=256 << 20, ge=1 << 20, description="Memory for the texts of battles; beyond it the oldest are dropped"
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_chars_per_s > self.max_chars_per_s:
            over = f"is over `max_chars_per_s` ({self.max_chars_per_s:g})"
            raise_faults([(("min_chars_per_s",), over)], self.min_chars_per_s)
        return self


class TracingConfig(Section):
    """OpenTelemetry traces of requests; the SDK's own variables (OTEL_...) say the rest."""

    endpoint: HttpUrl | None = Field(
        default=None, description="Where traces go: a collector's URL for OTLP over HTTP; none: nowhere"
    )
    sample_ratio: float = Field(default=1.0, ge=0, le=1, description="Part of the requests that are traced")


class Config(Section):
    """The whole configuration."""

    server: ServerConfig = Field(default_factory=ServerConfig, description="The public port")
    pool: PoolConfig = Field(default_factory=PoolConfig, description="Who may be awake, and who waits")
    arena: ArenaConfig = Field(default_factory=ArenaConfig, description="Blind battles, and what is kept of them")
    tracing: TracingConfig = Field(default_factory=TracingConfig, description="Traces of requests")
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

    @model_validator(mode="after")
    def _weights_are_of_models(self) -> Self:
        unknown = [name for name in self.arena.weights if name not in self.models]
        raise_faults(((("arena", "weights", name), "is not a configured model") for name in unknown), unknown)
        return self

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
    sections: dict[Key, type[Section]] = {
        "server": ServerConfig,
        "pool": PoolConfig,
        "arena": ArenaConfig,
        "tracing": TracingConfig,
        "models": ModelConfig,
    }
    return sections[where[0]] if len(where) > 1 else Config


def _unknown_key_hint(where: tuple[Key, ...], origin: Origin) -> str:
    key, section = str(where[-1]), _section(where)
    if section is ModelConfig and key.lstrip("-").replace("-", "_") in (origin.known_arguments or ()):
        return "a vLLM argument goes under `engine_args`"
    return known_key_hint(key, section.model_fields)
