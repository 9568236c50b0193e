"""Runs the revisions on the connection it is handed, under the limits that `infra.postgres.schema` has set on it."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
