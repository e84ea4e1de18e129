"""What the sections of the configuration are made of: a section, names and paths, and how a fault is reported."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from arena_server.config_file import Fault, shown


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a configuration is read from, and the vLLM arguments it is checked against (None: not checked)."""

    file: Path
    known_arguments: frozenset[str] | None


def refusal(what: str) -> PydanticCustomError:
    """A validator's error with this text."""
    return PydanticCustomError("arena", "{what}", {"what": what})


def raise_faults(faults: Iterable[Fault], value: object) -> None:
    """Report several faults from one validator, each under its own key."""
    errors = [InitErrorDetails(type=refusal(what), loc=tuple(where), input=value) for where, what in faults]
    if errors:
        raise ValidationError.from_exception_data("configuration", errors)


def _model_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9/._:@+-]{1,200}", name):
        raise refusal("must be 1 to 200 letters, digits and `/ . : - _ @ +`")
    if {".", ".."} & set(name.split("/")):
        # It becomes part of a URL, where clients resolve these before they send it.
        raise refusal("must not have `.` or `..` between slashes")
    return name


def _path(value: object) -> object:
    if not isinstance(value, str | Path) or not str(value):
        raise refusal(f"must be a path, not {shown(value)}")
    return Path(value)


def absolute(path: Path, info: ValidationInfo) -> Path:
    """`~` expanded; a relative path is relative to the configuration file, not to where the daemon starts."""
    base = info.context.file.parent if isinstance(info.context, Origin) else Path()
    try:
        return base.absolute() / path.expanduser()
    except (RuntimeError, OSError) as e:
        raise refusal(f"cannot be resolved: {e}") from None


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError where it is no number
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and text.isprintable() and " " not in text
    except ValueError:
        good = False
    if not good:
        raise refusal(f"must be a URL such as http://127.0.0.1:4318, not {shown(text)}")
    return text


def _backend_url(text: str) -> str:
    parts = urlsplit(_http_url(text))
    if "@" in parts.netloc:
        # Not shown: it would be in errors, in logs and in /health.
        raise refusal("must not have a user or a password in it (a key goes into the variable of `api_key_env`)")
    if "?" in text or "#" in text:
        raise refusal("must end with its path, which the routes are added to: no `?`, no `#`")
    return text


def _price(value: object) -> object:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refusal(f"must be a number, not {shown(value)}")
    return Decimal(str(value))  # as it was written: through a float 0.1 would be a little more


HttpUrl = Annotated[str, AfterValidator(_http_url)]
BackendUrl = Annotated[str, AfterValidator(_backend_url)]
ModelName = Annotated[str, AfterValidator(_model_name)]
# In any currency, to a millionth of it.
Price = Annotated[Decimal, BeforeValidator(_price), Field(ge=0, le=1_000_000, decimal_places=6)]
AbsolutePath = Annotated[Path, BeforeValidator(_path), AfterValidator(absolute)]


class Section(BaseModel):
    """A mapping in the file: unknown keys are refused, and an empty value means the default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        return {key: value for key, value in raw.items() if value is not None or key not in cls.model_fields}
