"""Databases for tests: copies of one migrated template. Copies with a changed schema are dropped, all others reused."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg2
import psycopg2.extensions

from infra.postgres import migration
from tests.support.services import Services, unique, with_path

log = logging.getLogger(__name__)

# The schema, without rows: relations with their grants, columns, constraints, statistics, the revision, settings.
_SHAPE = """
SELECT md5(string_agg(line, E'\\n' ORDER BY line)) FROM (
    SELECT format('%s %s %s', relkind, relname, relacl) AS line FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT format('%s %s %s', indexrelid::regclass, indisvalid, pg_get_indexdef(indexrelid))
        FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT format('%s %s %s %s %s', attrelid::regclass, attnum, attname, atttypid, attnotnull)
        FROM pg_attribute JOIN pg_class ON oid = attrelid WHERE relnamespace = 'public'::regnamespace AND attnum > 0
    UNION ALL SELECT format('%s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT format('function %s', proname) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT format('trigger %s', tgname) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT format('statistics of %s', starelid::regclass) FROM pg_statistic JOIN pg_class ON oid = starelid
        WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT format('settings %s', setconfig) FROM pg_db_role_setting JOIN pg_database ON setdatabase = oid
        WHERE datname = current_database()
    UNION ALL SELECT format('revision %s', version_num) FROM alembic_version
) AS shape
"""
# With a wait of its own: pg_terminate_backend looks only every 100 ms whether a session has ended.
_END_SESSIONS = """
DO $$ BEGIN
    FOR look IN 1..1000 LOOP
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
        EXIT WHEN NOT FOUND;
        PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
    END LOOP;
END $$
"""
# Referencing tables first. DELETE of some rows costs less than TRUNCATE, which gives the table and its indexes new files.
_EMPTY = """
DO $$ DECLARE name text; filled bigint; BEGIN
    SET LOCAL lock_timeout = '10s';
    FOR name IN SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
        AND relname NOT IN ('alembic_version', 'installation') ORDER BY oid DESC
    LOOP
        EXECUTE format('SELECT count(*) FROM (SELECT FROM %s LIMIT 100) AS first', name) INTO filled;
        IF filled = 100 THEN EXECUTE format('TRUNCATE %s CASCADE', name);
        ELSIF filled > 0 THEN EXECUTE format('DELETE FROM %s', name); END IF;
    END LOOP;
END $$
"""
# The statement that sets every sequence to its present value.
_SEQUENCES = """
SELECT 'SELECT ' || string_agg(
    format('setval(%L, %s, %L)', sequencename, coalesce(last_value, start_value), last_value IS NOT NULL), ', ')
FROM pg_sequences WHERE schemaname = 'public'
"""


@dataclass
class Copy:
    """One copy. Its connection stays open, because a new one costs more than emptying the database."""

    name: str
    connection: psycopg2.extensions.connection

    def run(self, statement: str) -> object:
        """Run one statement; returns the first value of its first row, if it has rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]


@dataclass
class Databases:
    """The template of one test process and its copies."""

    services: Services
    template: str
    shape: object = None
    sequences: str = ""
    idle: list[Copy] = field(default_factory=list)
    lent_copies: dict[str, Copy] = field(default_factory=dict)  # by URL

    @contextmanager
    def lent(self, namespace: str) -> Iterator[str]:
        """Lend an empty database that belongs to `namespace`; end all its sessions afterwards."""
        copy = self.idle.pop() if self.idle else self._copy()
        copy.run(f"UPDATE installation SET namespace = '{namespace}'")
        url = with_path(self.services.database, copy.name)
        self.lent_copies[url] = copy
        try:
            yield url
        finally:
            del self.lent_copies[url]
            self._take_back(copy)

    def empty(self, url: str) -> None:
        """Delete all rows of a lent database. Its sessions stay."""
        self._empty(self.lent_copies[url])

    def drop(self) -> None:
        """Delete the template and every copy."""
        for copy in self.idle:
            self._drop(copy)
        self.services.sql(f"DROP DATABASE {self.template} WITH (FORCE)")

    def _copy(self) -> Copy:
        name = unique("posthaste")
        self.services.sql(f"CREATE DATABASE {name} TEMPLATE {self.template}")
        # No test stops this Postgres, so commits need not wait for the disk.
        self.services.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
        copy = Copy(name, psycopg2.connect(with_path(self.services.database, name)))
        copy.connection.autocommit = True
        if self.shape is None:
            self.shape, self.sequences = copy.run(_SHAPE), str(copy.run(_SEQUENCES))
        return copy

    def _take_back(self, copy: Copy) -> None:
        try:
            if self._emptied(copy):
                self.idle.append(copy)
                return
        except psycopg2.Error as error:
            log.info("the database %s is dropped: %s", copy.name, error)
        self._drop(copy)

    def _emptied(self, copy: Copy) -> bool:
        """Delete all rows; False if a test changed the schema."""
        copy.run(_END_SESSIONS)
        if copy.run(_SHAPE) != self.shape:
            return False
        self._empty(copy)
        return True

    def _empty(self, copy: Copy) -> None:
        copy.run(_EMPTY)
        copy.run(self.sequences)

    def _drop(self, copy: Copy) -> None:
        copy.connection.close()
        self.services.sql(f"DROP DATABASE {copy.name} WITH (FORCE)")


@contextmanager
def of_template(services: Services) -> Iterator[Databases]:
    """Create a migrated template; delete it with its copies afterwards."""
    name = unique("posthaste_template")
    services.sql(f"CREATE DATABASE {name}")
    migration.migrate(with_path(services.database, name), "template")
    databases = Databases(services, name)
    yield databases
    databases.drop()
