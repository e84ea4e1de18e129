"""What is done with the tables, each within a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite

from arena_server.store.errors import AlreadyVoted
from arena_server.store.records import BattleRecord, Vote, VoteCount
from arena_server.store.rows import answer_rows, battle_row, turn_rows
from arena_server.store.schema import answers, battles, turns, votes


def save_battle(connection: Connection, battle: BattleRecord) -> None:
    """Insert the battle, or bring what is stored of it to this state; turns that are stored and not in it stay."""
    _save(connection, battles, [battle_row(battle)])
    _save(connection, turns, turn_rows(battle))
    _save(connection, answers, answer_rows(battle))


def save_vote(connection: Connection, battle: BattleRecord, vote: Vote, at: datetime) -> None:
    """Insert the battle and its vote. Raises AlreadyVoted."""
    save_battle(connection, battle)
    # Of two at once, one has waited here until it knows what became of the other: saving locks the battle's row.
    recorded = connection.execute(select(votes.c.vote).where(votes.c.battle_id == battle.id)).scalar_one_or_none()
    if recorded is not None:
        raise AlreadyVoted(Vote(recorded))
    connection.execute(votes.insert().values(battle_id=battle.id, vote=vote.value, at=at))


def count_votes(connection: Connection) -> int:
    """How many votes there are."""
    return connection.execute(select(func.count()).select_from(votes)).scalar_one()


def tally_votes(connection: Connection) -> list[VoteCount]:
    """The votes, counted by pair (sides as they were), vote and probability."""
    kinds = (battles.c.a_name, battles.c.b_name, votes.c.vote, battles.c.probability)
    query = select(*kinds, func.count()).join_from(votes, battles).group_by(*kinds).order_by(*kinds)
    return [VoteCount(a, b, Vote(vote), probability, n) for a, b, vote, probability, n in connection.execute(query)]


def _save(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    # `INSERT` with the `ON CONFLICT` of both databases, which SQLAlchemy has in two places.
    insert = postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
    keys = list(table.primary_key.columns)
    others = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=others), rows)
