"""Keys for tests: one of each scope, in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arena_server.access.key import sha256_of
from arena_server.caller import Scope

Header = tuple[str, str]


def token_of(name: str) -> str:
    """The text of the key of that name."""
    return f"sk-arena-the-key-of-{name}"


def key(name: str, *scopes: str, **rest: Any) -> dict[str, Any]:
    """Such a key's entry under `access.keys`."""
    return {"sha256": sha256_of(token_of(name)), "scopes": list(scopes or [name]), **rest}


def access(keys: Mapping[str, Mapping[str, Any]] | None = None, **rest: Any) -> dict[str, Any]:
    """The configuration's section: these keys, or one of each scope, which has the scope's name."""
    return {"keys": {scope.value: key(scope.value) for scope in Scope} if keys is None else dict(keys), **rest}


def bearer(name: str) -> list[Header]:
    """The header that shows the key of that name."""
    return [("Authorization", f"Bearer {token_of(name)}")]
