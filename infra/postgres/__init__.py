"""Postgres: the ledger (jobs and attempts), the outbox, and the schema. The code is synchronous and runs in thread pools."""
