"""The configuration: its schema, its checks, and the file it comes from.

What depends on the machine's devices is checked in `config_devices`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from arena_server.config_access import AccessConfig, ProxyNetwork, section_of_access
from arena_server.config_file import (
    Fault,
    Key,
    fault_line,
    known_key_hint,
    parse_yaml,
    read_config_file,
    reworded,
)
from arena_server.config_model import ModelConfig
from arena_server.config_names import name_faults
from arena_server.config_types import AbsolutePath, HttpUrl, ModelName, Origin, Section, raise_faults
from arena_server.errors import ConfigError
from arena_server.vllm_arguments import known_arguments

T = TypeVar("T")

# As values are read in the file.
AS_SECTIONS = ConfigDict(strict=True, allow_inf_nan=False)


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    return Path(base if os.path.isabs(base) else "~/.local/state") / "arena-server"


class ServerConfig(Section):
    """The public port."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 takes any free one")
    trusted_proxies: Annotated[tuple[ProxyNetwork, ...], Field(strict=False)] = Field(
        default=("127.0.0.1", "::1"),
        description="Addresses and networks whose X-Forwarded-For is believed",
    )
    max_body_bytes: int = Field(
        default=64 << 20, ge=1, description="Largest request body in bytes; a larger one gets 413"
    )
    body_memory_bytes: int | None = Field(
        default=None, ge=1, description="Memory for all request bodies; beyond it, 503; none: 1 GiB, or two bodies"
    )
    body_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds that 4 KiB of a request body may take, or its end; then it gets 408"
    )
    shutdown_grace_s: float = Field(default=30.0, ge=0, description="Seconds that running answers get at shutdown")

    @model_validator(mode="after")
    def _one_body_fits(self) -> Self:
        if self.body_memory < 2 * self.max_body_bytes:
            under = f"is under twice `max_body_bytes` ({self.max_body_bytes})"
            raise_faults([(("body_memory_bytes",), under)], self.body_memory_bytes)
        return self

    @property
    def body_memory(self) -> int:
        """For all request bodies, in bytes."""
        return self.body_memory_bytes or max(1 << 30, 2 * self.max_body_bytes)


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


class CacheConfig(Section):
    """Answers that are kept, to be given again."""

    enabled: bool = Field(default=False, description="Keep answers to requests that are deterministic, for each key")
    max_bytes: int = Field(
        default=256 << 20, ge=1 << 20, description="Memory for them; beyond it the oldest are dropped"
    )
    ttl_s: float = Field(default=3600.0, gt=0, description="Seconds that an answer is kept")


class TracingConfig(Section):
    """OpenTelemetry traces of requests; the SDK's own variables (OTEL_...) say the rest."""

    endpoint: HttpUrl | None = Field(
        default=None, description="Where traces go: a collector's URL for OTLP over HTTP; none: nowhere"
    )
    sample_ratio: float = Field(default=1.0, ge=0, le=1, description="Part of the requests that are traced")


AliasTargets = Annotated[
    Mapping[ModelName, Annotated[float, Field(ge=0, le=1_000_000)]],
    BeforeValidator(lambda raw: {raw: 1.0} if isinstance(raw, str) else raw),
    Field(min_length=1),
]


class Config(Section):
    """The whole configuration."""

    server: ServerConfig = Field(default_factory=ServerConfig, description="The public port")
    pool: PoolConfig = Field(default_factory=PoolConfig, description="Who may be awake, and who waits")
    arena: ArenaConfig = Field(default_factory=ArenaConfig, description="Blind battles, and what is kept of them")
    access: AccessConfig = Field(default_factory=AccessConfig, description="Who may come in, and how much they may ask")
    cache: CacheConfig = Field(default_factory=CacheConfig, description="Answers that are kept, to be given again")
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
    aliases: Mapping[ModelName, AliasTargets] = Field(
        default_factory=dict, description="Names that stand for a model, or for several by weight"
    )
    models: Mapping[ModelName, ModelConfig] = Field(min_length=1, description="the models to serve, by name")

    _origin: Origin = PrivateAttr(Origin(Path("configuration"), None))

    @model_validator(mode="after")
    def _weights_are_of_models(self) -> Self:
        unknown = [name for name in self.arena.weights if name not in self.models]
        raise_faults(((("arena", "weights", name), "is not a configured model") for name in unknown), unknown)
        return self

    @property
    def file(self) -> Path:
        """The file it was read from, to be named in errors."""
        return self._origin.file

    @property
    def origin(self) -> Origin:
        """What it was read with, for what is added to it."""
        return self._origin

    def model_post_init(self, context: Any, /) -> None:
        """Keep its origin."""
        if isinstance(context, Origin):
            self._origin = context


def load_config(path: Path) -> Config:
    """Read and check the file at `path`. Raises ConfigError, with a line for each fault, and nothing else."""
    return parse_config(read_config_file(path), Origin(path, known_arguments()))


def parse_config(data: bytes, origin: Origin) -> Config:
    """YAML text -> configuration. Raises ConfigError, with a line for each fault, and nothing else."""
    raw = parse_yaml(data, origin.file)
    faults = list(name_faults(raw.get("models"), raw.get("aliases")))
    config = None
    try:
        config = Config.model_validate(raw, context=origin)
    except ValidationError as e:
        faults = [*(_fault(error, origin) for error in e.errors()), *faults]
    if faults or config is None:
        raise ConfigError(fault_line(origin.file, fault) for fault in faults)
    return config


def parse_model(name: str, settings: object, origin: Origin) -> ModelConfig:
    """One model as it would stand in the file under `models`. Raises ConfigError, with a line for each fault."""
    return _parsed(TypeAdapter(Mapping[ModelName, ModelConfig], config=AS_SECTIONS), "models", name, settings, origin)


def parse_alias(name: str, targets: object, origin: Origin) -> Mapping[str, float]:
    """One alias as it would stand in the file under `aliases`. Raises ConfigError, with a line for each fault."""
    return _parsed(TypeAdapter(Mapping[ModelName, AliasTargets], config=AS_SECTIONS), "aliases", name, targets, origin)


def _parsed(adapter: TypeAdapter[Mapping[str, T]], key: str, name: str, value: object, origin: Origin) -> T:
    try:
        return adapter.validate_python({name: value}, context=origin)[name]
    except ValidationError as e:
        errors: list[Any] = [{**error, "loc": (key, *error["loc"])} for error in e.errors()]
        raise ConfigError(fault_line(origin.file, _fault(error, origin)) for error in errors) from None


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
    if where[0] == "access":
        return section_of_access(where)
    sections: dict[Key, type[Section]] = {
        "cache": CacheConfig,
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
