"""What the role of the running processes may do: read and write rows. The schema belongs to the role that migrates.

A process of ours that is taken over, or a statement that is slipped into one, can then change rows, and nothing else.
"""

import sqlalchemy as sa

# Which database this is: written by migrations, read by everybody.
_READ_ONLY = ("alembic_version", "installation")

# With default privileges, so that what a later revision adds is usable from its commit on, and not only from the next grants.
_GRANTS = """
REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;
REVOKE CREATE, TEMPORARY ON DATABASE {database} FROM PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {role};
GRANT USAGE ON SCHEMA {schema} TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {role}
"""
_ON_TABLE = "GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}"
_ON_SEQUENCE = "GRANT USAGE, SELECT ON SEQUENCE {table} TO {role}"
_ONLY_READ = "REVOKE INSERT, UPDATE, DELETE ON {table} FROM {role}"
_EMPTY_POSTS = "GRANT TRUNCATE ON posts TO {role}"  # `posthaste posts truncate`
_ANALYZE_POSTS = "GRANT MAINTAIN ON posts TO {role}"  # `posthaste posts seed`, from Postgres 17 on; before, it goes without

# Whatever else lies in the schema (an extension's views) is not ours to grant.
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
    """The role that POSTHASTE_DATABASE_URL names is not there; whoever administers Postgres makes it."""


def role_of(url: str) -> str | None:
    """The role that a URL names; None where it leaves that to libpq's defaults."""
    parts = sa.make_url(url)
    named = parts.username or parts.query.get("user")
    return named if isinstance(named, str) else None


def check_role(connection: sa.Connection, role: str) -> bool:
    """Whether `role` is another one than that of this connection, so that it needs grants.

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
    """Give `role` what running needs, in one transaction; idempotent. Returns whether that is all it has.

    What it has besides (it is a superuser, or a member of the role that migrates) cannot be taken from it here.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    database, schema = connection.execute(sa.text("SELECT current_database(), current_schema()")).one()
    names = {"role": quote(role), "schema": quote(schema), "database": quote(database)}
    statements = _GRANTS.format(**names).strip().split(";\n")
    for name, is_sequence in connection.execute(_OURS).all():
        statements.append((_ON_SEQUENCE if is_sequence else _ON_TABLE).format(table=quote(name), **names))
    statements += [_ONLY_READ.format(table=quote(name), **names) for name in _READ_ONLY]
    statements.append(_EMPTY_POSTS.format(**names))
    version = connection.dialect.server_version_info
    if version and version >= (17,):
        statements.append(_ANALYZE_POSTS.format(**names))
    for statement in statements:
        connection.exec_driver_sql(statement)
    fits = not connection.execute(_TOO_STRONG, {"role": role}).scalar_one()
    connection.commit()
    return fits
