"""The works of a worker: the handling of each of its queues."""

from consumers.runner import Work
from consumers.worker import _Adapters, _gates, _slots, _works
from jobs.model import Kind
from service.provider_settings import ProviderSettings
from service.settings import CALLBACK_WAIT_SECONDS, Settings
from tests.support.receiver import SECRET


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
