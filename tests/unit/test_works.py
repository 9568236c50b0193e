"""The works of a worker: the handling of each of its queues."""

import subprocess
import sys

import pytest

from consumers.reports import create
from consumers.reports.dask_lanes import DaskLanes
from consumers.reports.lanes import ProcessLanes
from consumers.runner import Work
from consumers.worker import _Adapters, _gates, _slots, _works
from infra.postgres.pool import DatabasePool
from jobs.model import Kind
from service.provider_settings import ProviderSettings
from service.settings import CALLBACK_WAIT_SECONDS, Settings, SettingsError
from tests.support.receiver import SECRET


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lane starts here, so no server is needed."""
    monkeypatch.setattr("consumers.reports.lanes.start_server", lambda: None)


async def _of(*kinds: Kind, **settings: object) -> dict[str, Work]:
    urls = {"database_url": "postgresql://h/db", "amqp_url": "amqp://h/", "redis_url": "redis://h"}
    providers = {"sandbox": ProviderSettings(url="http://127.0.0.1:9/", timeout_seconds=3.0)}
    configuration = Settings.model_validate({**urls, "providers": providers, **settings})
    slots = _slots(configuration, frozenset(kinds))
    adapters = _Adapters(configuration, slots)
    try:
        return _works(configuration, adapters, slots, _gates(configuration, slots, adapters.consumer))
    finally:
        await adapters.close()


async def test_a_worker_handles_the_queues_of_its_kinds() -> None:
    assert set(await _of(Kind.REPORT)) == {"reports"}
    assert set(await _of(Kind.MESSAGE)) == {"messages.sandbox.high", "messages.sandbox.normal"}
    assert set(await _of(Kind.CALLBACK)) == set(), "callbacks need secrets"


async def test_the_priorities_of_a_provider_share_its_slots_and_its_gate() -> None:
    high, normal = (await _of(Kind.MESSAGE)).values()
    assert high.slots is normal.slots and high.gate is normal.gate and high.gate is not None
    assert (high.priority, normal.priority) == ("high", "normal")
    assert high.timeout_seconds == 3.0


async def test_a_callback_has_time_to_wait_for_its_host() -> None:
    (work,) = (await _of(Kind.CALLBACK, callback_secrets=[SECRET], callback_timeout_seconds=15.0)).values()
    assert work.timeout_seconds == 15.0 + CALLBACK_WAIT_SECONDS


async def test_a_scheduler_replaces_the_processes_and_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = {"database_url": "postgresql://h/db", "amqp_url": "amqp://h/", "redis_url": "redis://h"}
    pool = DatabasePool(urls["database_url"], name="test", threads=1)
    for scheduler, kind in ((None, ProcessLanes), ("", ProcessLanes), ("tcp://127.0.0.1:8786", DaskLanes)):
        settings = Settings.model_validate({**urls, "report_scheduler": scheduler, "report_processes": 3})
        reporter = create.create_reporter(settings, pool)
        assert isinstance(reporter.lanes, kind)
        reporter.close()
    monkeypatch.setattr(create, "is_installed", lambda: False)
    with pytest.raises(SettingsError, match=r"posthaste\[dask\]"):
        create.create_reporter(settings, pool)
    pool.close()


def test_processes_import_what_they_need() -> None:
    script = "import sys, consumers.worker; assert 'numpy' not in sys.modules and 'distributed' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
    script = "import sys, service.seeding_process; assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
    script = "import sys, consumers.reports.lanes; assert not {'numpy', 'psycopg2', 'structlog'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
    script = "import sys, consumers.reports.keeper; assert not {'numpy', 'sqlalchemy', 'structlog'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
