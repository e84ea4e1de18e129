"""The tables. Whoever changes them adds a revision to `migrations/versions`; a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

# The newest revision, written down here too so that a database that is up to date needs no Alembic (0.2 s).
HEAD = "0001"
# All names have a prefix: a PostgreSQL database may be shared with other programs.
VERSION_TABLE = "arena_schema"


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, in UTC. SQLite keeps no time zone, so what comes from there is given one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database. Raises ValueError for a time without zone, which would mean another moment elsewhere."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Not JSONB: that refuses numbers and texts which JSON allows. None is NULL, and not JSON's null.
Json = JSON(none_as_null=True)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(column_0_label)s",
    }
)

battles = Table(
    "arena_battles",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("a_name", Text, nullable=False),
    Column("a_model", Text, nullable=False),
    Column("a_revision", Text),
    Column("a_arguments", Json, nullable=False),
    Column("b_name", Text, nullable=False),
    Column("b_model", Text, nullable=False),
    Column("b_revision", Text),
    Column("b_arguments", Json, nullable=False),
    Column("probability", Double),
    Column("paced", Boolean, nullable=False),
    Column("sampling", Json, nullable=False),
    Column("failure", Text),
)

turns = Table(
    "arena_turns",
    metadata,
    Column("battle_id", String(200), ForeignKey(battles.c.id), primary_key=True),
    Column("turn", Integer, primary_key=True, autoincrement=False),  # from 1
    Column("prompt", Json),
)

answers = Table(
    "arena_answers",
    metadata,
    Column("battle_id", String(200), primary_key=True),
    Column("turn", Integer, primary_key=True, autoincrement=False),
    Column("side", String(1), primary_key=True),  # a or b
    Column("residency", Text, nullable=False),
    Column("waited_s", Double, nullable=False),
    Column("ttft_s", Double),
    Column("tokens_per_s", Double),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("finish_reason", Text),
    Column("text", Text),
    Column("reasoning", Text),
    ForeignKeyConstraint(["battle_id", "turn"], [turns.c.battle_id, turns.c.turn]),
)

votes = Table(
    "arena_votes",
    metadata,
    # One vote a battle, by the database's own word: two daemons may share one.
    Column("battle_id", String(200), ForeignKey(battles.c.id), primary_key=True),
    Column("vote", String(20), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index(None, "at"),  # the order of an export
)
