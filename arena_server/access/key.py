"""An API key: the text that a client shows, its hash, and what it lets its holder do."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from arena_server.access.key_card import CONFIG_PREFIX
from arena_server.caller import ALL_SCOPES, Caller, Scope
from arena_server.config_access import KeyConfig, LimitsConfig
from arena_server.store.key_record import KeyRecord

PREFIX = "sk-arena-"  # so that people, and scanners for secrets that got out, know one when they see it
SECRET_BYTES = 32
ID_BYTES = 6
# Of a text that the operator chose. Hashes are plain SHA-256: for 256 random bits a slow one would add nothing.
SHORTEST = 20  # characters


def new_token() -> str:
    """The text of a new key: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def new_id() -> str:
    """A new key's id: 12 hexadecimal digits. No secret: it stands in logs and in what was used."""
    return secrets.token_hex(ID_BYTES)


def sha256_of(token: str) -> str:
    """What is kept of a key's text, in hexadecimal digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def with_included(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """The scopes with those that are part of them."""
    given = frozenset(scopes)
    return ALL_SCOPES if Scope.ADMIN in given else given


@dataclass(frozen=True, slots=True)
class Key:
    """A key in force, without its text. `limits` are its own, None: those of all keys."""

    id: str
    name: str
    scopes: frozenset[Scope]
    models: frozenset[str] | None = None
    limits: LimitsConfig | None = None

    def caller(self, address: str) -> Caller:
        """Its holder, at that address (as it is counted)."""
        return Caller(self.id, address, with_included(self.scopes), self.models)


def key_of_record(record: KeyRecord) -> Key:
    """A key of the store. Raises ValueError if what is kept of it makes no sense (its text is not in the message)."""
    try:
        limits = None if record.limits is None else LimitsConfig.model_validate(record.limits)
    except ValidationError as e:
        raise ValueError("limits: " + "; ".join(error["msg"] for error in e.errors(include_input=False))) from None
    return Key(
        record.id,
        record.name,
        frozenset(map(Scope, _texts("scopes", record.scopes))),
        None if record.models is None else frozenset(_texts("models", record.models)),
        limits,
    )


def config_keys(keys: Mapping[str, KeyConfig], environ: Mapping[str, str]) -> tuple[dict[str, Key], list[str]]:
    """The configuration's keys by the SHA-256 of their texts, and a line for each that cannot be had."""
    found: dict[str, Key] = {}
    faults: list[str] = []
    for name, config in keys.items():
        where = f"access.keys.{name}"
        sha256 = config.sha256
        if config.key_env is not None:
            token = environ.get(config.key_env, "")
            if len(token) < SHORTEST:
                what = f"has fewer than {SHORTEST} characters" if token else "is not set"
                # Else it may be a key itself, which people put there.
                variable = f" {config.key_env}" if config.key_env.isupper() else ""
                faults.append(f"{where}.key_env: the environment variable{variable} {what}")
                continue
            sha256 = sha256_of(token)
        assert sha256 is not None  # KeyConfig has one or the other
        if sha256 in found:
            faults.append(f"{where}: is the same key as `{found[sha256].name}` (give each its own)")
            continue
        models = None if config.models is None else frozenset(config.models)
        found[sha256] = Key(f"{CONFIG_PREFIX}{name}", name, frozenset(config.scopes), models, config.limits)
    return found, faults


def _texts(what: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{what}: is no list of texts")
    return [str(text) for text in value]
