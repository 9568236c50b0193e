"""Errors of Postgres, by how callers treat them."""

import psycopg2

from infra.errors import Transient


class PostgresError(Transient):
    """A transient error; `sqlstate` if Postgres sent one."""

    def __init__(self, summary: str, sqlstate: str | None = None):
        super().__init__(summary)
        self.sqlstate = sqlstate


class Unavailable(PostgresError):
    """Postgres is unreachable or did not answer in time. The transaction may have been committed."""


class DeadlinePassed(Unavailable):
    """The caller's deadline passed first: Postgres is frozen, or the statement takes too long."""


class TryAgain(PostgresError):
    """Postgres rolled the transaction back (deadlock, serialization failure, cancelled statement)."""


class Unexpected(Unavailable):
    """Postgres failed with an SQLSTATE without a rule here. It is retried like an outage, and logged as an error."""


class BadData(Exception):
    """Postgres rejected a value (SQLSTATE class 22 or 23); nothing was committed."""


NOT_PERMITTED = "42501"
_TRY_AGAIN = ("40001", "40P01", "57014", "55P03")
# Class 08: connection, 53: resources, 57P: shutdown or start-up, 25006: a standby, 42P01 and 42703: not migrated yet,
# 42501: not granted yet.
_UNAVAILABLE = ("08", "53", "57P", "25006", "42P01", "42703", NOT_PERMITTED)


def classify(error: Exception) -> Exception:
    """Classify an error of the driver, of SQLAlchemy or of the system; any other error is returned unchanged.

    Only a statement's value can be bad data. Every other error of Postgres is transient, so it drops nothing.
    """
    # An error of SQLAlchemy has the driver's error as `orig`. Its class would be an import in processes without SQLAlchemy.
    original = getattr(error, "orig", error)
    if isinstance(original, OSError):  # no descriptor for a connection
        return Unavailable(str(original))
    if not isinstance(original, psycopg2.Error):
        return error
    code = original.pgcode
    summary, *_ = str(original).strip().splitlines() or [type(original).__name__]
    if code is None or code.startswith(_UNAVAILABLE):
        return Unavailable(summary, code)
    if code in _TRY_AGAIN:
        return TryAgain(summary, code)
    if code.startswith(("22", "23")):
        return BadData(summary)
    return Unexpected(summary, code)
