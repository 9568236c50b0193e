"""A test's database equals the template, whatever the previous test did."""

import psycopg2
import pytest

from tests.support.databases import Databases
from tests.support.services import sql


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def test_a_database_with_rows_is_lent_again_without_them_and_without_sessions(databases: Databases) -> None:
    with databases.lent("first") as url:
        sql(url, "INSERT INTO posts (user_id, context, created_at) VALUES (1, 'two words', now())")
        connection = psycopg2.connect(url)
        connection.cursor().execute("LOCK TABLE posts")
    with databases.lent("second") as again:
        assert _name(again) == _name(url)
        assert sql(again, "SELECT namespace FROM installation") == [("second",)]
        assert sql(again, "SELECT count(*) FROM posts") == [(0,)]
        assert sql(again, "SELECT last_value, is_called FROM posts_changes") == [(1, True)]
        assert sql(again, "INSERT INTO posts (user_id, context, created_at) VALUES (1, '', now()) RETURNING id") == [(1,)]
    with pytest.raises(psycopg2.OperationalError):
        connection.cursor().execute("SELECT 1")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE posts RENAME TO elsewhere",
        "ALTER TABLE posts ADD COLUMN more text",
        "DROP INDEX jobs_messages",
        "UPDATE alembic_version SET version_num = '0001'",
        "GRANT SELECT ON posts TO PUBLIC",
        "ANALYZE installation",
        "DROP TABLE alembic_version",
    ],
)
def test_a_database_of_another_shape_is_not_lent_again(databases: Databases, change: str) -> None:
    with databases.lent("changed") as url:
        sql(url, change)
    assert _name(url) not in [copy.name for copy in databases.idle]
    assert databases.services.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{_name(url)}'") == [(0,)]
