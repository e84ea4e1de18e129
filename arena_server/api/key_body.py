"""The bodies of `/admin/keys`, checked field by field. The command line checks with them, too."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field

from arena_server.access.issuer import KeyOrder
from arena_server.access.key_card import CONFIG_PREFIX
from arena_server.api.chat_fields import Body
from arena_server.caller import Scope
from arena_server.config_access import LimitsConfig
from arena_server.config_types import ModelName

DAY_S = 86400
LONGEST_GRACE_S = 366 * DAY_S


def checked_name(name: str) -> str:
    """A name for people, on one line. Raises ValueError."""
    if not name.isprintable() or name != name.strip():
        raise ValueError("must be printable, without spaces around it")
    if name.startswith(CONFIG_PREFIX):
        raise ValueError(f"must not begin with `{CONFIG_PREFIX}`, as the ids of the configuration's keys do")
    return name


class KeyBody(Body):
    """POST /admin/keys."""

    name: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(checked_name)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=len(Scope))] = (Scope.INFERENCE,)
    models: Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=1000)] | None = None
    limits: LimitsConfig | None = None
    expires_at: AwareDatetime | None = None
    force: bool = False

    def order(self) -> KeyOrder:
        """What is to be made."""
        limits = None if self.limits is None else self.limits.model_dump()
        return KeyOrder(self.name, self.scopes, self.models, limits, self.expires_at, self.force)


class RotationBody(Body):
    """POST /admin/keys/{id}/rotate."""

    grace_s: float = Field(default=DAY_S, ge=0, le=LONGEST_GRACE_S)
