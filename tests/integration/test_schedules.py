"""Schedules in the ledger: created once, bounded, and started once whatever fails."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from consumers.scheduler import Scheduler
from infra.errors import Transient
from infra.keys import Scope, new_key
from infra.postgres.api_keys import ApiKeyStore
from infra.postgres.schedules import MOST, NameTaken, NewSchedule, Run, Schedule, ScheduleStore, TooMany
from jobs.lifecycle import Status
from jobs.reports import ReportParameters
from tests.support.factories import claim_request, new_id
from tests.support.ledger import ProxiedStore, Store
from tests.support.waiting import eventually

URL = "https://example.com/hooks"
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)
TOP = ReportParameters(user_ids=(3, 1), order="words", limit=5)
NIGHTLY = NewSchedule("default", "nightly", "0 6 * * *", "Europe/Berlin", TOP, None, True, FUTURE)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def schedules(store: Store) -> ScheduleStore:
    return ScheduleStore(store.pool, keys_off=False)


async def _due(store: Store, schedules: ScheduleStore, new: NewSchedule = NIGHTLY, ago: str = "1 day") -> None:
    await schedules.create(new, 5)
    store.rows(f"UPDATE report_schedules SET next_at = now() - interval '{ago}' WHERE name = '{new.name}'")


async def _found(schedules: ScheduleStore, name: str = "nightly") -> Schedule:
    found = await schedules.find("default", name, 5)
    assert found is not None
    return found


def _jobs(store: Store) -> list[tuple[object, ...]]:
    return store.rows("SELECT id, client_id, kind, status, version, body, reference, callback_url FROM jobs ORDER BY id")


def _scheduler(schedules: ScheduleStore, callback_url: str | None = None) -> Scheduler:
    return Scheduler(schedules, lambda: True, callback_url)


async def test_a_schedule_is_created_listed_and_deleted(schedules: ScheduleStore) -> None:
    created, is_new = await schedules.create(NIGHTLY, 5)
    assert is_new and created.equals(NIGHTLY) and created.active
    assert (created.parameters.user_ids, created.last_at, created.last_id, created.last_status) == ((1, 3), None, None, None)
    other = replace(NIGHTLY, client_id="shop", callback_url=URL, default_callback=False)
    assert (await schedules.create(other, 5))[1]
    assert await schedules.read("default", 10, 5) == [created]
    assert [row.client_id for row in await schedules.read(None, 10, 5)] == ["default", "shop"]
    assert await schedules.delete("default", "nightly", 5)
    assert not await schedules.delete("default", "nightly", 5)
    assert [row.callback_url for row in await schedules.read(None, 10, 5)] == [URL]


async def test_an_equal_request_creates_no_second_schedule_and_another_one_is_refused(schedules: ScheduleStore) -> None:
    created, _ = await schedules.create(NIGHTLY, 5)
    later = replace(NIGHTLY, next_at=FUTURE + MINUTE, parameters=replace(TOP, user_ids=(1, 3, 3)))
    assert await schedules.create(later, 5) == (created, False)
    for change in (
        {"cron": "0 7 * * *"},
        {"timezone": "UTC"},
        {"parameters": ReportParameters()},
        {"default_callback": False},
        {"default_callback": False, "callback_url": URL},
    ):
        with pytest.raises(NameTaken):
            await schedules.create(replace(NIGHTLY, **change), 5)
    assert await schedules.read(None, 10, 5) == [created]


async def test_the_limit_holds_for_concurrent_requests_and_each_client(schedules: ScheduleStore) -> None:
    for number in range(MOST - 3):
        await schedules.create(replace(NIGHTLY, name=f"n{number}"), 5)

    async def create(name: str) -> bool:
        while True:
            try:
                return (await schedules.create(replace(NIGHTLY, name=name), 5))[1]
            except TooMany:
                return False
            except Transient:
                continue

    made = await asyncio.gather(*(create(f"c{number}") for number in range(12)))
    assert sum(made) == 3
    assert len(await schedules.read("default", 1000, 5)) == MOST
    assert (await schedules.create(replace(NIGHTLY, name="n5"), 5))[1] is False
    assert (await schedules.create(replace(NIGHTLY, client_id="shop"), 5))[1]
    await schedules.delete("default", "n7", 5)
    assert await create("again")


async def test_a_due_schedule_starts_one_job_with_its_parameters_and_moves(store: Store, schedules: ScheduleStore) -> None:
    await _due(store, schedules, ago="5 days")
    await schedules.create(replace(NIGHTLY, name="later"), 5)
    assert await _scheduler(schedules, URL).start_due() == 1
    ((id_, *fields),) = _jobs(store)
    assert fields == ["default", "report", "queued", 1, TOP.to_body(), "nightly", URL]
    outbox = store.rows("SELECT job_id, version, route, queue, due_at <= now() FROM outbox")
    assert outbox == [(id_, 1, "work", "reports", True)]
    found, now = await _found(schedules), await schedules.clock(5)
    assert (str(found.last_id), found.last_status) == (str(id_), Status.QUEUED)
    assert found.last_at is not None and now - MINUTE < found.last_at <= now < found.next_at <= now + timedelta(hours=25)
    assert await _scheduler(schedules).start_due() == 0
    (claimed,) = await store.ledger.claim([claim_request(UUID(str(id_)))], 5)
    assert claimed is not None and ReportParameters.from_body(claimed.body) == replace(TOP, user_ids=(1, 3))


async def test_the_callback_url_of_a_schedule_replaces_the_default(store: Store, schedules: ScheduleStore) -> None:
    await _due(store, schedules, replace(NIGHTLY, name="own", default_callback=False, callback_url="https://own.example/"))
    await _due(store, schedules, replace(NIGHTLY, name="none", default_callback=False))
    await _due(store, schedules, replace(NIGHTLY, name="usual"))
    assert await _scheduler(schedules, URL).start_due() == 3
    urls = {str(name): url for name, url in store.rows("SELECT reference, callback_url FROM jobs")}
    assert urls == {"own": "https://own.example/", "none": None, "usual": URL}


async def test_many_relays_start_a_due_schedule_once(store: Store, schedules: ScheduleStore) -> None:
    for number in range(20):
        await _due(store, schedules, replace(NIGHTLY, name=f"s{number}"))
    started = await asyncio.gather(*(_scheduler(schedules).start_due() for _ in range(8)))
    total = sum(started)
    while total < 20:  # a skipped row is started in the next second
        total += (more := await _scheduler(schedules).start_due())
        assert more
    assert store.rows("SELECT count(*), count(DISTINCT reference) FROM jobs") == [(20, 20)]
    assert store.rows("SELECT count(*) FROM outbox") == [(20,)]


async def test_a_relay_that_was_overtaken_starts_nothing(store: Store, schedules: ScheduleStore) -> None:
    """Between its read and its statement, another relay has started the schedule, or the client has made it anew."""
    await _due(store, schedules)
    (read,) = await schedules.due(10, 5)
    run = Run(read.client_id, read.name, read.due_at, new_id(), FUTURE)
    assert await _scheduler(schedules).start_due() == 1
    assert await schedules.start([run], None, 5) == set()
    await schedules.delete("default", "nightly", 5)
    assert await schedules.start([run], None, 5) == set()
    await schedules.create(NIGHTLY, 5)
    assert await schedules.start([run], None, 5) == set()
    assert len(_jobs(store)) == 1


@pytest.mark.parametrize("table", ["jobs", "outbox", "report_schedules"])
async def test_a_failure_in_the_statement_changes_nothing(store: Store, schedules: ScheduleStore, table: str) -> None:
    await _due(store, schedules)
    before = await _found(schedules)
    store.rows(
        "CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'crash' USING ERRCODE = '57P01'; END $$"
    )
    store.rows(f"CREATE TRIGGER crash AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION crash()")
    try:
        with pytest.raises(Transient):
            await _scheduler(schedules).start_due()
    finally:
        store.rows("DROP FUNCTION crash CASCADE")
    assert (await _found(schedules), _jobs(store), store.rows("SELECT FROM outbox")) == (before, [], [])
    assert await _scheduler(schedules).start_due() == 1
    assert len(_jobs(store)) == 1


async def test_a_lost_answer_to_the_commit_repeats_no_report(proxied_store: ProxiedStore) -> None:
    store, schedules = proxied_store, ScheduleStore(proxied_store.pool, keys_off=False)
    await _due(store, schedules)
    scheduler = _scheduler(schedules)
    store.proxy.cut_on_answer(b"INSERT INTO jobs")
    with pytest.raises(Transient):
        await scheduler.start_due()
    await eventually(_counted(store), lambda jobs: jobs == 1)
    assert await scheduler.start_due() == 0
    assert len(_jobs(store)) == 1


def _counted(store: Store) -> Callable[[], Awaitable[int]]:
    async def count() -> int:
        return len(_jobs(store))

    return count


async def test_a_report_that_has_not_ended_is_not_overlapped(store: Store, schedules: ScheduleStore) -> None:
    """The schedule stays due meanwhile, and then starts one report."""
    await _due(store, schedules)
    assert await _scheduler(schedules).start_due() == 1
    store.rows("UPDATE report_schedules SET next_at = now() - interval '3 days'")
    for status in ("queued", "processing", "retrying"):
        store.rows(f"UPDATE jobs SET status = '{status}'")
        assert await _scheduler(schedules).start_due() == 0
    store.rows("UPDATE jobs SET status = 'failed'")
    assert await _scheduler(schedules).start_due() == 1
    assert await _scheduler(schedules).start_due() == 0
    assert len(_jobs(store)) == 2


async def test_a_deleted_report_does_not_hold_its_schedule(store: Store, schedules: ScheduleStore) -> None:
    await _due(store, schedules)
    assert await _scheduler(schedules).start_due() == 1
    store.rows("DELETE FROM jobs")
    found = await _found(schedules)
    assert (found.last_id, found.last_status) == (None, None) and found.last_at is not None
    store.rows("UPDATE report_schedules SET next_at = now()")
    assert await _scheduler(schedules).start_due() == 1


async def test_a_schedule_rests_while_its_client_may_not_start_reports(store: Store, schedules: ScheduleStore) -> None:
    keys = ApiKeyStore(store.pool)
    await _due(store, schedules)
    await keys.create_client("shop", 5)
    await keys.create_client("default", 5)
    await keys.create_key("shop", new_key(), [Scope.REPORTS], None, 5)
    assert not (await _found(schedules)).active
    for scopes, seconds in (([Scope.MESSAGES_READ], None), ([Scope.REPORTS], -1.0)):
        await keys.create_key("default", new_key(), scopes, seconds, 5)
    revoked = new_key()
    await keys.create_key("default", revoked, [Scope.REPORTS], None, 5)
    await keys.revoke(revoked.prefix, 5)
    assert not (await _found(schedules)).active and await _scheduler(schedules).start_due() == 0
    assert await ScheduleStore(store.pool, keys_off=True).due(5, 5) != []
    await keys.create_key("default", new_key(), [Scope.REPORTS], None, 5)
    assert (await _found(schedules)).active
    assert await _scheduler(schedules).start_due() == 1, "missed runs are caught up with one report"
    assert await _scheduler(schedules).start_due() == 0
