"""What is done with the table of usage, each within a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, case, func, select
from sqlalchemy.dialects import postgresql, sqlite

from arena_server.store.schema import keys, usage, usage_batches
from arena_server.store.usage_record import By, Place, Span, Sum, Used

# BigInteger's. What is more stays there: a sum that the database refuses would keep all others from being written.
MOST = (1 << 63) - 1
# A writer that was silent for so long is no more.
WRITERS_KEPT = timedelta(days=7)
MILLION = 1_000_000
UNIT = 10**12  # of the currency, in pico


def add_usage(connection: Connection, writer: str, number: int, now: datetime, batch: Mapping[Place, Used]) -> bool:
    """Add a writer's batch, whose number is one more than that of its last. False if it was added before."""
    before = select(usage_batches.c.number).where(usage_batches.c.writer == writer)
    if (connection.execute(before).scalar_one_or_none() or 0) >= number:
        return False
    if number == 1:
        connection.execute(usage_batches.delete().where(usage_batches.c.at < now - WRITERS_KEPT))
    mark = _insert(connection, usage_batches)
    mark = mark.on_conflict_do_update(
        index_elements=[usage_batches.c.writer], set_={"number": mark.excluded.number, "at": mark.excluded.at}
    )
    connection.execute(mark, [{"writer": writer, "number": number, "at": now}])
    if batch:
        insert = _insert(connection, usage)
        insert = insert.on_conflict_do_update(
            index_elements=list(usage.primary_key.columns),
            set_={column.name: _sum(column, insert.excluded[column.name]) for column in _counted()},
        )
        # In order: two daemons that add to the same rows would else lock each other out.
        connection.execute(insert, [_row(place, batch[place]) for place in sorted(batch)])
    return True


def sums(connection: Connection, by: By, span: Span) -> list[Sum]:
    """What was used in that span; days in their order, keys and models with the most tokens first."""
    column = {By.KEY: usage.c.key_id, By.MODEL: usage.c.model, By.DAY: usage.c.day}[by]
    tokens = func.sum(usage.c.prompt_tokens + usage.c.completion_tokens)
    # In parts: SQLite refuses sums over 64 bits.
    parts = (usage.c.cost_units, UNIT), (usage.c.cost_pico, 1)
    cost = [func.sum(part) for column, _ in parts for part in (column // MILLION, column % MILLION)]
    worth = [part * unit for _, unit in parts for part in (MILLION, 1)]
    counted = [func.sum(c) for c in (usage.c.requests, usage.c.prompt_tokens, usage.c.completion_tokens)]
    name = func.max(keys.c.name)
    query: Select[Any] = (
        select(column, name, *counted, func.sum(usage.c.seconds), *cost)
        .select_from(usage.outerjoin(keys, usage.c.key_id == keys.c.id))
        .where(*_within(span))
        .group_by(column)
        .order_by(*([column] if by is By.DAY else [tokens.desc(), column]))
    )
    return [
        Sum(
            str(of),
            name if by is By.KEY else None,
            Used(
                int(requests),
                int(prompt),
                int(completion),
                float(seconds),
                sum(int(part) * each for part, each in zip(found, worth, strict=True)),
            ),
        )
        for of, name, requests, prompt, completion, seconds, *found in connection.execute(query)
    ]


def tokens_of_day(connection: Connection, day: date) -> dict[str, int]:
    """All tokens that were used on that day, by the key's id."""
    tokens = func.sum(usage.c.prompt_tokens + usage.c.completion_tokens)
    query = select(usage.c.key_id, tokens).where(usage.c.day == day).group_by(usage.c.key_id)
    return {key_id: int(count) for key_id, count in connection.execute(query)}


def _within(span: Span) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if span.since is not None:
        found.append(usage.c.day >= span.since)
    if span.until is not None:
        found.append(usage.c.day <= span.until)
    if span.key_id is not None:
        found.append(usage.c.key_id == span.key_id)
    if span.model is not None:
        found.append(usage.c.model == span.model)
    return found


def _counted() -> list[Column[Any]]:
    return [column for column in usage.columns if not column.primary_key]


def _sum(column: Column[Any], more: ColumnElement[Any]) -> ColumnElement[Any]:
    """Both, but no more than the column holds. (A correction is less than nothing.)"""
    if column.type.python_type is not int:
        return column + more
    full = case((column > MOST - more, MOST), else_=column + more)
    return case((more > 0, full), else_=column + more)


def _row(place: Place, used: Used) -> dict[str, Any]:
    units, pico = divmod(used.cost_pico, UNIT)
    counts = {
        "requests": used.requests,
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "cost_units": units,
        "cost_pico": pico,
    }
    row = {"day": place.day, "key_id": place.key_id, "model": place.model, "seconds": used.seconds}
    return {**row, **{name: min(count, MOST) for name, count in counts.items()}}


def _insert(connection: Connection, table: Any) -> Any:
    # `INSERT` with the `ON CONFLICT` of both databases, which SQLAlchemy has in two places.
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
