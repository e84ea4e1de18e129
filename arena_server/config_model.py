"""One model's part of the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from arena_server.config_file import Fault, shown
from arena_server.config_types import BackendUrl, ModelName, Origin, Price, Section, absolute, raise_faults, refusal
from arena_server.vllm_arguments import OWNED_ENV, device_count, normalise

_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")

# Keys that mean nothing for a model that another server runs, and for one that runs here.
ENGINE_KEYS = frozenset(
    {"gpu_memory_utilization", "engine_args", "pinned", "idle_ttl_s", "devices", "sleep_level", "env"}
)
REMOTE_KEYS = frozenset({"api_key_env", "connect_timeout_s", "timeout_s", "retries"})


class ModelConfig(Section):
    """One model and the engine that serves it."""

    # Before `model`, whose check needs it.
    backend_url: BackendUrl | None = Field(
        default=None, description="OpenAI-compatible server that runs it (`.../v1`); none: an engine on this host"
    )
    model: str = Field(
        min_length=1,
        description="Hugging Face id, or a path that starts with / ./ ../ or ~",
    )
    display_name: str | None = Field(default=None, min_length=1, max_length=200, description="Its name for people")
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
    fallback: Annotated[tuple[ModelName, ...], Field(strict=False)] = Field(
        default=(), description="Models that answer in its place, in this order, where it cannot"
    )
    input_cost: Price = Field(default=Decimal(0), description="Price of a million prompt tokens")
    output_cost: Price = Field(default=Decimal(0), description="Price of a million completion tokens")
    api_key_env: str | None = Field(default=None, description="Environment variable with the API key for `backend_url`")
    connect_timeout_s: float = Field(default=5.0, gt=0, description="Seconds to connect to `backend_url`")
    timeout_s: float = Field(default=600.0, gt=0, description="Seconds that `backend_url` may stay silent")
    retries: int = Field(
        default=2, ge=0, le=10, description="Further tries at `backend_url`, as long as nothing of an answer has come"
    )

    @property
    def remote(self) -> bool:
        """Whether another server runs it."""
        return self.backend_url is not None

    @property
    def needed_devices(self) -> int:
        """On how many devices its engine runs: the product of its parallel sizes."""
        return device_count(self.engine_args)

    @field_validator("model")
    @classmethod
    def _resolve_path(cls, model: str, info: ValidationInfo) -> str:
        if model.startswith("-") or not model.isprintable() or model != model.strip():
            raise refusal(f"must be a Hugging Face id or a path, not {shown(model)}")
        if info.data.get("backend_url") is not None:
            return model  # what the other server calls it, even if that is a path there
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

    @field_validator("api_key_env")
    @classmethod
    def _check_api_key_env(cls, name: str | None) -> str | None:
        if name is not None and not _VARIABLE.fullmatch(name):
            # Not shown: people put the key itself here.
            raise refusal("must be the name of an environment variable, and not the key that is in it")
        return name

    @model_validator(mode="after")
    def _only_keys_of_its_kind(self) -> Self:
        if self.remote:
            what = "is for an engine on this host, and `backend_url` says that another server runs this model"
        else:
            what = "is for a model that another server runs, which takes a `backend_url`"
        wrong = self.model_fields_set & (ENGINE_KEYS if self.remote else REMOTE_KEYS)
        raise_faults((((key,), what) for key in type(self).model_fields if key in wrong), sorted(wrong))
        return self


def _env_faults(env: Mapping[str, object]) -> Iterator[Fault]:
    for name, value in env.items():
        if name in OWNED_ENV:
            yield (name,), f"is set by arena-server ({OWNED_ENV[name]})"
        elif not _VARIABLE.fullmatch(name):
            yield (name,), "is not the name of an environment variable"
        elif isinstance(value, bool):
            # YAML reads `yes`, `on` and `true` alike, so what was meant is lost.
            yield (name,), 'must be text (put it in quotes, or write "1" or "0")'
        elif not isinstance(value, str | int | float):
            yield (name,), f"must be text, not {shown(value)}"
