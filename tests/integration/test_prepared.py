"""Prepared statements on real Postgres: prepared once for each connection, and again where the server has none."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from infra.postgres.prepared import PreparedStatement

ADD = PreparedStatement("SELECT CAST(:first AS int) + :second AS sum, :second AS second")


@pytest.fixture
def connection(database: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(sa.make_url(database).set(drivername="postgresql+psycopg2"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def _prepared(connection: sa.Connection) -> list[str]:
    return list(connection.exec_driver_sql("SELECT name FROM pg_prepared_statements ORDER BY prepare_time").scalars())


def _sum(connection: sa.Connection, first: int, second: int) -> tuple[int, int]:
    row = ADD.execute(connection, first=first, second=second, unused="ignored").one()
    return row.sum, row.second


def test_a_statement_is_prepared_once_for_a_connection(connection: sa.Connection) -> None:
    assert [_sum(connection, 1, 2), _sum(connection, 3, 4)] == [(3, 2), (7, 4)]
    assert len(_prepared(connection)) == 1


def test_a_discarded_statement_is_prepared_again(connection: sa.Connection) -> None:
    _sum(connection, 1, 2)
    connection.exec_driver_sql("DEALLOCATE ALL")
    assert _sum(connection, 3, 4) == (7, 4)


def test_a_statement_that_another_owner_of_the_session_has_prepared_is_replaced(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"{ADD._prepare.partition(' AS ')[0]} AS SELECT 0 AS sum, 0 AS second")
    assert _sum(connection, 3, 4) == (7, 4)


def test_a_new_type_of_a_column_prepares_the_statement_again(connection: sa.Connection) -> None:
    connection.exec_driver_sql("CREATE TEMPORARY TABLE numbers (n int)")
    connection.exec_driver_sql("INSERT INTO numbers VALUES (7)")
    read = PreparedStatement("SELECT n FROM numbers")
    assert read.execute(connection).scalar_one() == 7
    connection.exec_driver_sql("ALTER TABLE numbers ALTER n TYPE text")
    assert read.execute(connection).scalar_one() == "7"


def test_other_errors_are_raised_and_leave_the_connection_usable(connection: sa.Connection) -> None:
    with pytest.raises(sa.exc.DBAPIError):
        _sum(connection, 2**31 - 1, 1)
    assert _sum(connection, 1, 2) == (3, 2)
