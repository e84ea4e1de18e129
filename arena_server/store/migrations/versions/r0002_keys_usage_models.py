"""Keys, usage, and the models and aliases that were added at run time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """From 0001: only new tables; battles and votes stay as they are."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "arena_keys",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("models", sa.JSON),
        sa.Column("limits", sa.JSON),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("expires_at", moment),
        sa.Column("revoked_at", moment),
        sa.Column("previous_sha256", sa.String(64)),
        sa.Column("previous_until", moment),
        sa.PrimaryKeyConstraint("id", name="pk_arena_keys"),
        sa.UniqueConstraint("sha256", name="uq_arena_keys_sha256"),
    )
    op.create_table(
        "arena_usage",
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("key_id", sa.String(120), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("cost_units", sa.BigInteger, nullable=False),
        sa.Column("cost_pico", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("day", "key_id", "model", name="pk_arena_usage"),
    )
    op.create_table(
        "arena_usage_batches",
        sa.Column("writer", sa.String(32), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.PrimaryKeyConstraint("writer", name="pk_arena_usage_batches"),
    )
    op.create_table(
        "arena_models",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_arena_models"),
    )
    op.create_table(
        "arena_aliases",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("targets", sa.JSON, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_arena_aliases"),
    )
