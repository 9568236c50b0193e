"""Fixtures of all tests: real services, and a database and a namespace for each test."""

import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings as properties

from infra.redis import connection
from tests.support import services as found
from tests.support.databases import Databases, of_template
from tests.support.services import PROVIDERS, Services, drop_namespace, sql, unique, with_path

# A shell lets background jobs, and all their children, ignore SIGINT. Tests interrupt processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The suite tries the same examples each time; `make fuzz` tries new ones.
properties.register_profile("same", derandomize=True)
properties.register_profile("new", max_examples=2000, deadline=None)
properties.load_profile("same")

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
def databases(services: Services) -> Iterator[Databases]:
    with of_template(services) as found:
        yield found


@pytest.fixture
def namespace() -> str:
    return unique("test")


@pytest.fixture
def database(request: pytest.FixtureRequest, services: Services, namespace: str) -> Iterator[str]:
    """The URL of a migrated, empty database of the test's namespace."""
    shared = request.config.getoption("--shared-database")
    if shared:
        yield _emptied(with_path(services.database, shared))
        return
    databases: Databases = request.getfixturevalue("databases")
    with databases.lent(namespace) as url:
        yield url


def _emptied(url: str) -> str:
    """Delete all rows. DELETE of a few rows is faster than TRUNCATE."""
    tables = [str(name) for (name,) in sql(url, _TABLES)]
    sql(url, "; ".join(f"DELETE FROM {name}" for name in tables))
    return url


@pytest.fixture
async def broker_namespace(services: Services, namespace: str) -> AsyncIterator[str]:
    """A namespace; its exchanges and queues are deleted afterwards."""
    yield namespace
    await drop_namespace(services.amqp, namespace, PROVIDERS)


@pytest.fixture
def patient_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow calls to Redis more than 50 ms: other tests must not fail on a busy machine."""
    monkeypatch.setattr(connection, "CALL_SECONDS", 10.0)
