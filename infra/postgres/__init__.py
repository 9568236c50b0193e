"""Postgres: the ledger (jobs and attempts), the outbox, and the schema. Synchronous code, called through thread pools."""
