"""The schema's history, for Alembic.

A new revision is a new module in `versions`, by hand: `revision` is the next number, `down_revision` the one before,
and `schema.HEAD` the newest. It has to run on SQLite and on PostgreSQL, with battles and votes already there.
"""
