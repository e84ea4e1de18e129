"""What is kept of an API key, as a plain value. Without SQLAlchemy, which takes half a second to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

# The name of a record in place of a row that cannot be read; it is revoked.
UNREADABLE = "(cannot be read)"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key. Its text is kept nowhere: `sha256` is that text's hash, in hexadecimal digits. Times in UTC.

    `models` are the only ones it may ask, None: all; `limits` are its own, by the names of the configuration's
    `access.key_limits`, None: those. `previous_sha256` is that of the text before the last rotation, good until
    `previous_until`.
    """

    id: str
    name: str
    sha256: str
    scopes: Sequence[str]
    models: Sequence[str] | None
    limits: Mapping[str, int | None] | None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    previous_sha256: str | None = None
    previous_until: datetime | None = None
