"""The configuration of keys and limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from arena_server.caller import Scope
from arena_server.config_file import Fault, Key, shown
from arena_server.config_types import ModelName, Section, raise_faults, refusal

ScopeName = Annotated[Scope, Field(strict=False)]
T = TypeVar("T")
KeyName = Annotated[str, Field(min_length=1, max_length=100)]


def _not_admin(scope: Scope) -> Scope:
    if scope is Scope.ADMIN:
        raise refusal("cannot be `admin` (for that there has to be a key)")
    return scope


# What stands there instead is not shown: people put the key itself there.


def _variable(name: object) -> object:
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise refusal("must be the name of an environment variable, and not the key that is in it")
    return name


def _sha256(digits: object) -> object:
    if not isinstance(digits, str) or not re.fullmatch("[0-9a-f]{64}", digits):
        raise refusal("must be 64 hexadecimal digits (printf %s KEY | sha256sum), and not the key itself")
    return digits


def _network(text: str) -> str:
    try:
        network = ip_network(text)
    except ValueError:
        raise refusal(f"must be an address or a network such as 10.0.0.0/8, not {shown(text)}") from None
    if network.prefixlen == 0:
        # Then it is the client who says where it comes from.
        raise refusal("trusts everybody (name the addresses of the proxies alone)")
    return text


def _some(values: tuple[T, ...]) -> tuple[T, ...]:
    # Pydantic's own length would be a second fault where an entry is wrong.
    if not values:
        raise refusal("must have at least 1 entry")
    return values


AnonymousScope = Annotated[ScopeName, AfterValidator(_not_admin)]
ProxyNetwork = Annotated[str, AfterValidator(_network)]


class LimitsConfig(Section):
    """How much may be asked; none: as much as one likes."""

    requests_per_minute: int | None = Field(default=None, ge=1, description="Requests a minute")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Prompt and completion tokens a minute")
    concurrent_requests: int | None = Field(default=None, ge=1, description="Requests at the same time")
    tokens_per_day: int | None = Field(default=None, ge=1, description="Prompt and completion tokens a day (UTC)")

    @property
    def some(self) -> bool:
        """Whether there is any. Asked for each request: comparing two of these takes 20 times as long."""
        return (
            self.requests_per_minute is not None
            or self.tokens_per_minute is not None
            or self.concurrent_requests is not None
            or self.tokens_per_day is not None
        )


class KeyConfig(Section):
    """A key that is known from the start. The key itself is in `key_env`, or only its hash is here."""

    key_env: Annotated[str, BeforeValidator(_variable)] | None = Field(
        default=None, description="Environment variable that has the key"
    )
    sha256: Annotated[str, BeforeValidator(_sha256)] | None = Field(
        default=None, description="SHA-256 of the key, in hexadecimal digits"
    )
    scopes: Annotated[tuple[ScopeName, ...], Field(strict=False), AfterValidator(_some)] = Field(
        default=(Scope.INFERENCE,), description="What it is for: inference, arena, metrics, admin (all of them)"
    )
    models: Annotated[tuple[ModelName, ...], Field(strict=False), AfterValidator(_some)] | None = Field(
        default=None, description="The only models it may ask, by name or alias; none: all"
    )
    limits: LimitsConfig | None = Field(default=None, description="Its own limits, in place of `key_limits`")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.key_env is None) == (self.sha256 is None):
            raise_faults([((), "needs either `key_env` or `sha256`")], None)
        return self


class AccessConfig(Section):
    """Who may come in, and how much they may ask."""

    keys: Mapping[KeyName, KeyConfig] = Field(default_factory=dict, description="Keys known from the start, by name")
    anonymous: Annotated[tuple[AnonymousScope, ...], Field(strict=False)] = Field(
        default=(), description="What may be done without a key although there are keys: inference, arena, metrics"
    )
    key_limits: LimitsConfig = Field(default_factory=LimitsConfig, description="Of each key that has none of its own")
    address_limits: LimitsConfig = Field(default_factory=LimitsConfig, description="Of each address")
    failed_tries_per_minute: int = Field(
        default=10, ge=1, description="Wrong keys that an address may show in a minute; then it gets 429"
    )

    @model_validator(mode="after")
    def _hashes_differ(self) -> Self:
        seen: dict[str, str] = {}
        faults: list[Fault] = []
        for name, key in self.keys.items():
            if key.sha256 is not None and (other := seen.setdefault(key.sha256, name)) != name:
                faults.append((("keys", name, "sha256"), f"is that of `{other}`, too (give each its own key)"))
        raise_faults(faults, None)
        return self


def section_of_access(where: tuple[Key, ...]) -> type[Section]:
    """The section that the key `where` stands in, under `access`."""
    if where[-2] in ("limits", "key_limits", "address_limits"):
        return LimitsConfig
    return KeyConfig if len(where) > 3 else AccessConfig
