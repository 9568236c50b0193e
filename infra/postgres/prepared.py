"""Prepared statements: Postgres parses and plans a hot statement once for each connection, not once for each batch.

A new connection, for example after a failover, has none, and prepares its own. Postgres itself plans again after a migration.
It rejects a statement whose result has new types, and a pooler may have discarded a statement: both are prepared again.
"""

import hashlib
from typing import Any

import sqlalchemy as sa
from psycopg2 import errors
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.exc import DBAPIError

_DIALECT: sa.Dialect = PGDialect_psycopg2(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_OUTDATED = (errors.FeatureNotSupported, errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)


class PreparedStatement:
    """One statement. Postgres infers the types of its parameters. Its `name` is a digest of its text."""

    def __init__(self, text: str):
        self.statement = sa.text(text)
        compiled = self.statement.compile(dialect=_DIALECT)
        self.name = name = f"posthaste_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self._parameters = tuple(compiled.positiontup or ())
        self._prepare = f"PREPARE {name} AS {compiled}"
        placeholders = ", ".join(["%s"] * len(self._parameters))
        self._execute = f"EXECUTE {name} ({placeholders})" if placeholders else f"EXECUTE {name}"

    def execute(self, connection: sa.Connection, **parameters: Any) -> sa.CursorResult[Any]:
        """Execute it, after preparing it where the connection has not. Further parameters are ignored."""
        values = tuple(parameters[name] for name in self._parameters)
        prepared: set[str] = connection.info.setdefault("prepared", set())
        try:
            return self._execute_on(connection, prepared, values)
        except DBAPIError as error:
            if not isinstance(error.orig, _OUTDATED):
                raise
        connection.exec_driver_sql("DEALLOCATE ALL")
        prepared.clear()
        return self._execute_on(connection, prepared, values)

    def _execute_on(self, connection: sa.Connection, prepared: set[str], values: tuple[Any, ...]) -> sa.CursorResult[Any]:
        if self._execute not in prepared:
            connection.exec_driver_sql(self._prepare)
            prepared.add(self._execute)
        return connection.exec_driver_sql(self._execute, values)
