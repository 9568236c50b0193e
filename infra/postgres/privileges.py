"""Privileges of the run-time role: it reads and writes rows. The migrating role owns the schema.

A compromised process or an injected statement can then change rows, and nothing else.
"""

import sqlalchemy as sa

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
_ANALYZE_POSTS = "GRANT MAINTAIN ON posts TO {role};"  # `posthaste posts seed`; unknown before Postgres 17

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


class RoleMissing(Exception):
    """The role in POSTHASTE_DATABASE_URL does not exist; an administrator of Postgres must create it."""


def role_of(url: str) -> str | None:
    """The role in a URL; None leaves it to libpq's defaults."""
    parts = sa.make_url(url)
    named = parts.username or parts.query.get("user")
    return named if isinstance(named, str) else None


def check_role(connection: sa.Connection, role: str) -> bool:
    """Whether `role` differs from the connection's role, so it needs grants.

    Raises:
        RoleMissing: there is no such role.
    """
    found = connection.execute(
        sa.text("SELECT rolname <> current_user FROM pg_roles WHERE rolname = :role"), {"role": role}
    ).scalar_one_or_none()
    connection.commit()
    if found is None:
        raise RoleMissing(
            f"POSTHASTE_DATABASE_URL names the role {role!r}, which does not exist: "
            f"CREATE ROLE {role} LOGIN PASSWORD '…', then `posthaste migrate` again"
        )
    return bool(found)


def grant(connection: sa.Connection, role: str) -> bool:
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
    if (connection.dialect.server_version_info or ()) >= (17,):
        statements.append(_ANALYZE_POSTS.format(**names))
    connection.exec_driver_sql("\n".join(statements))
    fits = not connection.execute(_TOO_STRONG, {"role": role}).scalar_one()
    connection.commit()
    return fits
