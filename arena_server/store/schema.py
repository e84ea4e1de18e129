"""The tables. Whoever changes them adds a revision to `migrations/versions`; a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
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
    UniqueConstraint,
)

# The newest revision, written down here too so that a database that is up to date needs no Alembic (0.2 s).
HEAD = "0002"
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
        "uq": "uq_%(table_name)s_%(column_0_name)s",
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

keys = Table(
    "arena_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("sha256", String(64), nullable=False),  # of the key's text, in hexadecimal digits; the text is kept nowhere
    Column("scopes", Json, nullable=False),
    Column("models", Json),  # the only ones it may ask; null: all
    Column("limits", Json),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("previous_sha256", String(64)),  # of the text before the last rotation
    Column("previous_until", UtcDateTime),
    UniqueConstraint("sha256"),
)

# Without foreign keys: what was used outlives the key and the model, and both may be the configuration's.
usage = Table(
    "arena_usage",
    metadata,
    Column("day", Date, primary_key=True),  # in UTC
    Column("key_id", String(120), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("seconds", Double, nullable=False),
    # The cost is the sum of both: whole units of the currency, and 1e-12 of it, so that sums are exact. Alone the
    # latter would end at nine million units, which is not much money everywhere.
    Column("cost_units", BigInteger, nullable=False),
    Column("cost_pico", BigInteger, nullable=False),  # each addition is of less than one unit
)

# The last batch of usage that each writer (one life of a daemon) has added, written with the batch: a commit whose
# acknowledgement was lost is then known to have been, and what is tried again is not added twice.
usage_batches = Table(
    "arena_usage_batches",
    metadata,
    Column("writer", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),  # from 1
    Column("at", UtcDateTime, nullable=False),
)

models = Table(
    "arena_models",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("settings", Json, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

aliases = Table(
    "arena_aliases",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("targets", Json, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)
