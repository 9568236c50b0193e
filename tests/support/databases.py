"""Databases for tests: copies of one migrated template. Copies with a changed schema are dropped, all others reused."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
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
_END_SESSIONS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# Only tables with rows: TRUNCATE gives a table new files.
_EMPTY = """
DO $$ DECLARE name text; filled boolean; BEGIN
    SET LOCAL lock_timeout = '10s';
    FOR name IN SELECT quote_ident(tablename) FROM pg_tables
        WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'installation')
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', name) INTO filled;
        IF filled THEN EXECUTE format('TRUNCATE %s RESTART IDENTITY CASCADE', name); END IF;
    END LOOP;
    FOR name IN SELECT quote_ident(sequencename) FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL
    LOOP EXECUTE format('ALTER SEQUENCE %s RESTART', name); END LOOP;
END $$
"""


@dataclass
class Databases:
    """The template of one test process and its copies."""

    services: Services
    template: str
    shape: object = None
    idle: list[str] = field(default_factory=list)

    @contextmanager
    def lent(self, namespace: str) -> Iterator[str]:
        """Lend an empty database that belongs to `namespace`; end all its sessions afterwards."""
        name = self.idle.pop() if self.idle else self._copy()
        self.services.sql(f"UPDATE installation SET namespace = '{namespace}'", name)
        try:
            yield with_path(self.services.database, name)
        finally:
            self._take_back(name)

    def drop(self) -> None:
        """Delete the template and every copy."""
        for name in (*self.idle, self.template):
            self.services.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _copy(self) -> str:
        name = unique("posthaste")
        self.services.sql(f"CREATE DATABASE {name} TEMPLATE {self.template}")
        # No test stops this Postgres, so commits need not wait for the disk.
        self.services.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
        if self.shape is None:
            ((self.shape,),) = self.services.sql(_SHAPE, name)
        return name

    def _take_back(self, name: str) -> None:
        try:
            with closing(psycopg2.connect(with_path(self.services.database, name))) as connection:
                connection.autocommit = True
                if self._emptied(connection.cursor()):
                    self.idle.append(name)
                    return
        except psycopg2.Error as error:
            log.info("the database %s is dropped: %s", name, error)
        self.services.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _emptied(self, cursor: psycopg2.extensions.cursor) -> bool:
        """Delete all rows; False if a test changed the schema."""
        cursor.execute(_END_SESSIONS)
        cursor.execute(_SHAPE)
        if cursor.fetchone() != (self.shape,):
            return False
        cursor.execute(_EMPTY)
        return True


@contextmanager
def of_template(services: Services) -> Iterator[Databases]:
    """Create a migrated template; delete it with its copies afterwards."""
    name = unique("posthaste_template")
    services.sql(f"CREATE DATABASE {name}")
    migration.migrate(with_path(services.database, name), "template")
    databases = Databases(services, name)
    yield databases
    databases.drop()
