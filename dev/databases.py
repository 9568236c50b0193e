"""Databases of the demo, the benchmarks and the tests."""

from contextlib import closing

import psycopg2
import sqlalchemy as sa
from psycopg2 import sql

from infra.postgres.errors import classify


def create_database(url: str, name: str) -> str:
    """Create the database `name` on the server of `url`, and return its URL. An existing one is dropped first.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    drop_database(url, name)
    _execute(url, name, "CREATE DATABASE {}")
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)


def drop_database(url: str, name: str) -> None:
    """Drop the database `name` on the server of `url`, if it exists."""
    _execute(url, name, "DROP DATABASE IF EXISTS {} WITH (FORCE)")


def _execute(url: str, name: str, statement: str) -> None:
    try:
        with closing(psycopg2.connect(url, connect_timeout=5)) as connection:
            connection.autocommit = True
            connection.cursor().execute(sql.SQL(statement).format(sql.Identifier(name)))
    except psycopg2.Error as error:
        raise classify(error) from error
