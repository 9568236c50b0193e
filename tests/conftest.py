"""What all tests share: real services, a database and a namespace of their own for each test."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from infra.postgres import schema
from infra.redis import rates, status_cache
from tests import services as found
from tests.services import Services, drop_namespace, sql, unique, with_path

PROVIDERS = ["sandbox", "other"]

_TABLES = """
SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    AND relname NOT IN ('installation', 'alembic_version')
"""


@pytest.fixture(scope="session")
def services() -> Services:
    return found.find()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shared-database", help="the name of a migrated database for every test, instead of copies")


@pytest.fixture(scope="session")
def template_database(services: Services) -> Iterator[str]:
    """A migrated database, from which each test's own is copied."""
    name = unique("posthaste_template")
    services.sql(f"CREATE DATABASE {name}")
    schema.migrate(with_path(services.database, name), "template")
    yield name
    services.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def namespace() -> str:
    return unique("test")


@pytest.fixture
def database(request: pytest.FixtureRequest, services: Services, namespace: str) -> Iterator[str]:
    """The URL of a migrated database that belongs to this test's namespace."""
    if request.config.getoption("--shared-database"):
        yield request.getfixturevalue("emptied_database")
        return
    template_database = request.getfixturevalue("template_database")
    with copied(services, template_database, namespace) as url:
        yield url


@pytest.fixture(scope="session")
def shared_database(request: pytest.FixtureRequest, services: Services) -> Iterator[str]:
    """A migrated database for the tests of one process that need neither a namespace nor other processes."""
    given = request.config.getoption("--shared-database")
    if given is not None:
        yield with_path(services.database, given)
        return
    with copied(services, request.getfixturevalue("template_database"), unique("shared")) as url:
        yield url


@pytest.fixture
def emptied_database(shared_database: str) -> str:
    """The URL of the shared database without rows. DELETE of a few rows is faster than TRUNCATE, and than a new copy."""
    tables = [str(name) for (name,) in sql(shared_database, _TABLES)]
    sql(shared_database, "; ".join(f"DELETE FROM {name}" for name in tables))
    return shared_database


@contextmanager
def copied(services: Services, template_database: str, namespace: str) -> Iterator[str]:
    """A copy of the template that belongs to `namespace`, dropped afterwards; its URL."""
    name = unique("posthaste")
    services.sql(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    services.sql(f"UPDATE installation SET namespace = '{namespace}'", name)
    # No test of this database stops Postgres itself, so none of them needs to wait for the machine's disk.
    services.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    yield with_path(services.database, name)
    services.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def broker_namespace(services: Services, namespace: str) -> AsyncIterator[str]:
    """A namespace whose exchanges and queues are deleted afterwards."""
    yield namespace
    await drop_namespace(services.amqp, namespace, PROVIDERS)


@pytest.fixture
def patient_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls to Redis have more than their 50 ms: a test of something else must not fail on a busy machine."""
    for module in (rates, status_cache):
        monkeypatch.setattr(module, "CALL_SECONDS", 10.0)
