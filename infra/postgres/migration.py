"""Migration of the schema, and the privileges of the run-time role.

The run-time role reads and writes rows, the migrating role owns the schema. A compromised process or an injected statement can
then change rows, and nothing else.
"""

import sqlalchemy as sa
import structlog

from infra.postgres.compatibility import INVALID_INDEXES, MIGRATIONS, ForeignNamespace
from infra.postgres.errors import TryAgain, classify

_LOCK = 7_305_711_946  # any number, the same for every process that migrates

log = structlog.get_logger()

# With default privileges, so tables of a later revision are usable from its commit on.
_GRANTS = """
REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;
REVOKE CREATE, TEMPORARY ON DATABASE {database} FROM PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {role};
GRANT USAGE ON SCHEMA {schema} TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {role};
"""
# Migrations write the tables that identify the database; processes read them. `posthaste posts truncate` empties the posts.
_EXCEPTIONS = """
REVOKE INSERT, UPDATE, DELETE ON alembic_version, installation FROM {role};
GRANT TRUNCATE ON posts TO {role};
"""

# Other relations in the schema (an extension's views) have other owners.
_OURS = sa.text("""
SELECT relname, relkind = 'S' AS is_sequence FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
    AND relkind IN ('r', 'p', 'S') AND pg_has_role(relowner, 'MEMBER')
ORDER BY relname
""")

_TOO_STRONG = sa.text("""
SELECT rolsuper OR rolcreatedb OR rolcreaterole OR pg_has_role(rolname, current_user, 'MEMBER')
    OR has_schema_privilege(rolname, current_schema(), 'CREATE')
FROM pg_roles WHERE rolname = :role
""")


class WrongEncoding(Exception):
    """The database is not in UTF8: it could not hold every text. Create one with ENCODING 'UTF8' TEMPLATE template0."""


class MigrationBlocked(Exception):
    """Another migration is running, or a lock could not be had in time; nothing was changed by this one."""


class RoleMissing(Exception):
    """The role in POSTHASTE_DATABASE_URL does not exist; an administrator of Postgres must create it."""


def _autocommit(engine: sa.Engine) -> sa.Connection:
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def migrate(url: str, namespace: str, to: str = "head", *, runtime_role: str | None = None) -> str:
    """Migrate the schema to revision `to`, and assign the database to `namespace`; returns the revision.

    `runtime_role`, if it differs from the URL's role, is granted its privileges. DDL waits at
    most 3 s for a lock, so the service's statements wait no longer behind it.

    Raises:
        RoleMissing: the run-time role does not exist; nothing was changed.
        MigrationBlocked: another migration runs, or a lock was not released in time.
        WrongEncoding: the database is not in UTF8.
        ForeignNamespace: the database belongs to another namespace.
        Unavailable: Postgres cannot be reached.
    """
    from alembic import command  # here, as no other process of ours needs what it brings
    from alembic.config import Config

    options = "-c lock_timeout=3s -c statement_timeout=10min -c timezone=UTC"
    parts = sa.make_url(url).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(parts, poolclass=sa.NullPool, connect_args={"connect_timeout": 5, "options": options})
    config = Config(attributes={})
    config.set_main_option("script_location", str(MIGRATIONS))
    try:
        with _autocommit(engine) as lock, engine.connect() as connection:
            _hold_lock(lock)
            _require_utf8(lock)
            grantee = runtime_role if runtime_role and _check_role(lock, runtime_role) else None
            _rebuild_invalid_indexes(lock)
            config.attributes["connection"] = connection
            command.upgrade(config, to)
            connection.commit()
            _claim_namespace(connection, namespace)
            revision = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
            if grantee and not _grant(connection, grantee):
                log.warning("privileges.too_many", role=grantee, effect="it can do more than read and write rows")
            return str(revision)
    except sa.exc.DBAPIError as error:
        classified = classify(error)
        raise (MigrationBlocked(str(classified)) if isinstance(classified, TryAgain) else classified) from error


def _hold_lock(connection: sa.Connection) -> None:
    """Acquire the lock of migrations, until the connection is closed."""
    if not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}):
        raise MigrationBlocked("another migration of this database is running; try again when it is done")


def _rebuild_invalid_indexes(connection: sa.Connection) -> None:
    """Build again each index that an interrupted CREATE INDEX CONCURRENTLY left behind: `IF NOT EXISTS` takes it for whole.

    https://www.postgresql.org/docs/current/sql-createindex.html, "Building Indexes Concurrently".
    """
    for name in connection.scalars(sa.text(INVALID_INDEXES)).all():
        log.warning("index.rebuilt", index=name, reason="an earlier migration was interrupted while it built it")
        connection.exec_driver_sql(f"REINDEX INDEX CONCURRENTLY {connection.dialect.identifier_preparer.quote(name)}")


def _require_utf8(connection: sa.Connection) -> None:
    encoding = connection.scalar(sa.text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise WrongEncoding(
            f"the database's encoding is {encoding}, which cannot hold every text: create one with "
            "CREATE DATABASE … ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0, and set POSTHASTE_DATABASE_URL to it"
        )


def _claim_namespace(connection: sa.Connection, namespace: str) -> None:
    connection.execute(
        sa.text("INSERT INTO installation (namespace) VALUES (:namespace) ON CONFLICT DO NOTHING"), {"namespace": namespace}
    )
    owner = connection.scalar(sa.text("SELECT namespace FROM installation"))
    connection.commit()
    if owner != namespace:
        raise ForeignNamespace(f"this database belongs to namespace {owner!r}, not to {namespace!r}")


def role_of(url: str) -> str | None:
    """The role in a URL; None leaves it to libpq's defaults."""
    parts = sa.make_url(url)
    named = parts.username or parts.query.get("user")
    return named if isinstance(named, str) else None


def _check_role(connection: sa.Connection, role: str) -> bool:
    """Whether `role` differs from the connection's role, so it needs grants.

    Raises:
        RoleMissing: there is no such role.
    """
    found = connection.scalar(sa.text("SELECT rolname <> current_user FROM pg_roles WHERE rolname = :role"), {"role": role})
    if found is None:
        raise RoleMissing(
            f"POSTHASTE_DATABASE_URL names the role {role!r}, which does not exist: "
            f"CREATE ROLE {role} LOGIN PASSWORD '…', then `posthaste migrate` again"
        )
    return bool(found)


def _grant(connection: sa.Connection, role: str) -> bool:
    """Grant `role` the run-time privileges in one transaction; idempotent. False: the role has more.

    A superuser or a member of the migrating role keeps its other privileges: they cannot be revoked here.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    database, schema = connection.execute(sa.text("SELECT current_database(), current_schema()")).one()
    names = {"role": quote(role), "schema": quote(schema), "database": quote(database)}
    statements = [_GRANTS.format(**names)]
    for name, is_sequence in connection.execute(_OURS):
        rights = "USAGE, SELECT ON SEQUENCE" if is_sequence else "SELECT, INSERT, UPDATE, DELETE ON"
        statements.append(f"GRANT {rights} {quote(name)} TO {names['role']};")
    statements.append(_EXCEPTIONS.format(**names))
    if (connection.dialect.server_version_info or ()) >= (17,):  # earlier versions have no such grant
        statements.append(f"GRANT MAINTAIN ON posts TO {names['role']};")  # `posthaste posts seed` analyzes
    connection.exec_driver_sql("\n".join(statements))
    is_too_strong = connection.scalar(_TOO_STRONG, {"role": role})
    connection.commit()
    return not is_too_strong
