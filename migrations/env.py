"""Runs the revisions on the connection of `infra.postgres.migration`, which sets its timeouts."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
