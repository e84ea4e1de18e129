"""Battles, their turns and answers, and votes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """From nothing. Types are written out: the tables in `schema` go on changing, and this must not."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "arena_battles",
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("a_name", sa.Text, nullable=False),
        sa.Column("a_model", sa.Text, nullable=False),
        sa.Column("a_revision", sa.Text),
        sa.Column("a_arguments", sa.JSON, nullable=False),
        sa.Column("b_name", sa.Text, nullable=False),
        sa.Column("b_model", sa.Text, nullable=False),
        sa.Column("b_revision", sa.Text),
        sa.Column("b_arguments", sa.JSON, nullable=False),
        sa.Column("probability", sa.Double),
        sa.Column("paced", sa.Boolean, nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("failure", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_arena_battles"),
    )
    op.create_table(
        "arena_turns",
        sa.Column("battle_id", sa.String(200), nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("prompt", sa.JSON),
        sa.PrimaryKeyConstraint("battle_id", "turn", name="pk_arena_turns"),
        sa.ForeignKeyConstraint(["battle_id"], ["arena_battles.id"], name="fk_arena_turns_arena_battles"),
    )
    op.create_table(
        "arena_answers",
        sa.Column("battle_id", sa.String(200), nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("side", sa.String(1), nullable=False),
        sa.Column("residency", sa.Text, nullable=False),
        sa.Column("waited_s", sa.Double, nullable=False),
        sa.Column("ttft_s", sa.Double),
        sa.Column("tokens_per_s", sa.Double),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("completion_tokens", sa.BigInteger),
        sa.Column("finish_reason", sa.Text),
        sa.Column("text", sa.Text),
        sa.Column("reasoning", sa.Text),
        sa.PrimaryKeyConstraint("battle_id", "turn", "side", name="pk_arena_answers"),
        sa.ForeignKeyConstraint(
            ["battle_id", "turn"], ["arena_turns.battle_id", "arena_turns.turn"], name="fk_arena_answers_arena_turns"
        ),
    )
    op.create_table(
        "arena_votes",
        sa.Column("battle_id", sa.String(200), nullable=False),
        sa.Column("vote", sa.String(20), nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.PrimaryKeyConstraint("battle_id", name="pk_arena_votes"),
        sa.ForeignKeyConstraint(["battle_id"], ["arena_battles.id"], name="fk_arena_votes_arena_battles"),
    )
    op.create_index("ix_arena_votes_at", "arena_votes", ["at"])
