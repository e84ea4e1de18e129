"""What is done with the table of keys, each within a transaction of the caller's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, String, Text, cast, select

from arena_server.store.key_record import UNREADABLE
from arena_server.store.key_record import KeyRecord as KeyRecord
from arena_server.store.schema import keys

logger = logging.getLogger(__name__)

FIELDS = tuple(field.name for field in fields(KeyRecord))
EPOCH = datetime.fromtimestamp(0, UTC)


def list_keys(connection: Connection) -> list[KeyRecord]:
    """All keys that were ever made, also those that are over, oldest first."""
    query = select(*(keys.c[name] for name in FIELDS)).order_by(keys.c.created_at, keys.c.id)
    try:
        return [KeyRecord(*row) for row in connection.execute(query)]
    except (ValueError, TypeError):
        # Edited by hand, or by another program: one row that no value can be made of must not be the end of all others,
        # or of their revocations.
        ids = connection.execute(select(cast(keys.c.id, Text)).order_by(keys.c.id)).scalars().all()
        return [_record(connection, key_id) for key_id in ids]


def _record(connection: Connection, key_id: str) -> KeyRecord:
    """One key; of one that cannot be read, that it was made, and that it is good for nothing."""
    try:
        row = connection.execute(select(*(keys.c[name] for name in FIELDS)).where(keys.c.id == key_id)).one()
        return KeyRecord(*row)
    except (ValueError, TypeError):  # which may quote the row
        logger.error("The API key %s cannot be read, and so it is none: mend its row in the database", key_id)
        return KeyRecord(key_id, UNREADABLE, "", (), None, None, EPOCH, revoked_at=EPOCH)


def fingerprint_keys(connection: Connection) -> Sequence[Row[Any]]:
    """Something that is equal as long as no key is changed: the rows as texts, which takes a tenth of reading them."""
    texts = (column if isinstance(column.type, String) else cast(column, Text) for column in keys.columns)
    return connection.execute(select(*texts).order_by(keys.c.id)).all()


def add_key(connection: Connection, record: KeyRecord) -> None:
    """Keep a new key. Raises IntegrityError (for the store's callers StoreUnavailable) if its id or hash is there."""
    connection.execute(keys.insert().values({name: getattr(record, name) for name in FIELDS}))


def change_key(connection: Connection, key_id: str, **changes: Any) -> bool:
    """Set these fields of a key, by their names in KeyRecord. Returns whether there is such a key."""
    return connection.execute(keys.update().where(keys.c.id == key_id).values(changes)).rowcount == 1
