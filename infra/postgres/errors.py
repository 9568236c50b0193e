"""Errors of Postgres, in the classes that callers treat differently."""

import psycopg2
from sqlalchemy.exc import DBAPIError

from infra.errors import Transient


class PostgresError(Transient):
    """An error that may be gone at the next try; `sqlstate` where Postgres gave one."""

    def __init__(self, summary: str, sqlstate: str | None = None):
        super().__init__(summary)
        self.sqlstate = sqlstate


class Unavailable(PostgresError):
    """Postgres cannot be reached or did not answer in time. What was asked may have been committed all the same."""


class DeadlinePassed(Unavailable):
    """The caller's deadline passed first: Postgres is frozen, or there was too much to do."""


class TryAgain(PostgresError):
    """Postgres undid the transaction for a passing reason (deadlock, serialization, cancelled statement)."""


class Unexpected(Unavailable):
    """Postgres failed with an SQLSTATE that no rule here names. It is retried like an outage, and logged as an error."""


class BadData(Exception):
    """Postgres refuses a value (SQLSTATE class 22 or 23); nothing was done."""


NOT_PERMITTED = "42501"
_TRY_AGAIN = ("40001", "40P01", "57014", "55P03")
# Class 08 connection, 53 resources, 57P shutdown or start-up, 25006 a standby, 42P01 and 42703 not migrated yet, not
# permitted (yet): all say "not now, not here".
_UNAVAILABLE = ("08", "53", "57P", "25006", "42P01", "42703", NOT_PERMITTED)


def classify(error: Exception) -> Exception:
    """The class of an error of the driver (as it is, or wrapped by SQLAlchemy) or of the system; else the error itself.

    Only the value of a statement can be bad data. Every other error of Postgres may pass, so nothing is dropped because of it.
    """
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, OSError):  # no descriptor for a connection
        return Unavailable(str(original))
    if not isinstance(original, psycopg2.Error):
        return error
    code = original.pgcode
    text = str(original).strip().splitlines()
    summary = text[0] if text else type(original).__name__
    if code is None:
        return Unavailable(summary)
    if code in _TRY_AGAIN:
        return TryAgain(summary, code)
    if code.startswith(("22", "23")):
        return BadData(summary)
    if code.startswith(_UNAVAILABLE):
        return Unavailable(summary, code)
    return Unexpected(summary, code)
