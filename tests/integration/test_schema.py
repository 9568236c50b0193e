"""Migrations: from nothing, twice, concurrently; an incompatible schema is refused."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from infra.postgres import compatibility, migration
from infra.postgres.pool import DatabasePool
from tests.support.services import Services, sql, unique, with_path


@pytest.fixture
def empty(services: Services) -> Iterator[str]:
    name = unique("posthaste_empty")
    services.sql(f"CREATE DATABASE {name}")
    yield with_path(services.database, name)
    services.sql(f"DROP DATABASE {name} WITH (FORCE)")


async def test_migrating_twice_changes_nothing(empty: str) -> None:
    assert migration.migrate(empty, "mine") == migration.migrate(empty, "mine") == compatibility.code_revision()
    pool = DatabasePool(empty, name="test", threads=1)
    assert await compatibility.check(pool, "mine", 5)
    pool.close()


def test_a_database_that_cannot_hold_every_text_is_refused(services: Services) -> None:
    name = unique("posthaste_ascii")
    services.sql(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(migration.WrongEncoding, match="SQL_ASCII"):
            migration.migrate(with_path(services.database, name), "mine")
    finally:
        services.sql(f"DROP DATABASE {name} WITH (FORCE)")


async def test_two_migrations_at_once_do_not_meet(empty: str) -> None:
    answers = await asyncio.gather(
        *(asyncio.to_thread(migration.migrate, empty, "mine") for _ in range(3)), return_exceptions=True
    )
    assert all(answer == compatibility.code_revision() or isinstance(answer, migration.MigrationBlocked) for answer in answers)
    assert compatibility.code_revision() in answers


async def test_an_empty_an_older_and_a_foreign_database_are_refused_and_a_newer_one_is_not(
    services: Services, empty: str
) -> None:
    pool = DatabasePool(empty, name="test", threads=1)
    with pytest.raises(compatibility.SchemaTooOld, match="posthaste migrate"):
        await compatibility.check(pool, "mine", 5)
    migration.migrate(empty, "mine")
    with pytest.raises(compatibility.ForeignNamespace, match="'mine'"):
        await compatibility.check(pool, "other", 5)
    with pytest.raises(compatibility.ForeignNamespace, match="'mine'"):
        migration.migrate(empty, "other")
    name = empty.rpartition("/")[2]
    services.sql("UPDATE alembic_version SET version_num = '9999'", name)
    assert not await compatibility.check(pool, "mine", 5)
    services.sql("UPDATE alembic_version SET version_num = '0000'", name)
    with pytest.raises(compatibility.SchemaTooOld, match="0000"):
        await compatibility.check(pool, "mine", 5)
    pool.close()


async def test_an_index_that_was_left_half_built_is_built_again(empty: str) -> None:
    migration.migrate(empty, "mine", to="0009")
    _leave_half_built(empty, "jobs_backlog ON jobs (client_id, due_at) INCLUDE (provider)")
    pool = DatabasePool(empty, name="test", threads=1)
    assert (await compatibility.diagnose(pool, 5)).invalid_indexes == ["jobs_backlog"]
    migration.migrate(empty, "mine")
    assert (await compatibility.diagnose(pool, 5)).invalid_indexes == []
    assert sql(empty, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'jobs_backlog'::regclass") == [(True,)]
    pool.close()


async def test_an_invalid_index_of_a_current_schema_is_built_again(empty: str) -> None:
    migration.migrate(empty, "mine")
    sql(empty, "DROP INDEX jobs_dead")
    _leave_half_built(empty, "jobs_dead ON jobs (id) WHERE status IN ('failed', 'unknown')")
    migration.migrate(empty, "mine")
    assert sql(empty, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'jobs_dead'::regclass") == [(True,)]


def _leave_half_built(url: str, index: str) -> None:
    """Interrupt CREATE INDEX CONCURRENTLY while it waits for another transaction."""
    holder, builder = psycopg2.connect(url), psycopg2.connect(url)
    try:
        holder.cursor().execute("LOCK TABLE jobs IN ROW EXCLUSIVE MODE")
        builder.autocommit = True
        cursor = builder.cursor()
        cursor.execute("SET statement_timeout = 500")
        with pytest.raises(psycopg2.errors.QueryCanceled):
            cursor.execute(f"CREATE INDEX CONCURRENTLY {index}")
    finally:
        holder.close()
        builder.close()


def test_a_release_that_is_installed_under_a_running_process_does_not_change_its_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions/0001_first.py").touch()
    monkeypatch.setattr(compatibility, "MIGRATIONS", tmp_path)
    compatibility.code_revision.cache_clear()
    try:
        assert compatibility.code_revision() == "0001"
        (tmp_path / "versions/0002_next_release.py").touch()
        assert compatibility.code_revision() == "0001"
    finally:
        compatibility.code_revision.cache_clear()
