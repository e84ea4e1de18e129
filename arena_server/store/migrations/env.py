"""Run by Alembic: brings the connection that it is given up to date, in that connection's transaction."""

from __future__ import annotations

from alembic import context

from arena_server.store.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
