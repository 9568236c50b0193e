"""Letters that cannot be requeued hide no others; an index finds one client's letters."""

from uuid import UUID

import pytest
import sqlalchemy as sa

from infra.postgres.dead_letters import BEFORE_ALL, DeadLetterStore, Filter, Requeueable, page_statement
from jobs.model import Kind, Priority, work_queues
from service.dead_letters import DeadLetters
from tests.support.ledger import Store

DAY = 86_400.0
DEADLINES = dict.fromkeys((queue.name for queue in work_queues(["sandbox", "other"])), DAY)
_ADD = """
INSERT INTO jobs (id, client_id, kind, provider, priority, destination, body, status, version, queued_at, finished_at)
SELECT CAST('00000000-0000-7000-8000-' || lpad(to_hex({first} + n), 12, '0') AS uuid), '{client}', '{kind}', {provider},
    '{priority}', '+1', 'hello', 'failed', 3, now() - interval '{age_days} d', now()
FROM generate_series(0, {count} - 1) n
"""


def _add(
    store: Store,
    first: int,
    count: int = 1,
    *,
    provider: str = "sandbox",
    age_days: int = 0,
    kind: Kind = Kind.MESSAGE,
    priority: Priority = Priority.NORMAL,
    client: str = "shop",
) -> list[UUID]:
    """Dead letters whose ids count from `first`."""
    named = f"'{provider}'" if kind is Kind.MESSAGE else "NULL"
    store.rows(
        _ADD.format(first=first, count=count, provider=named, age_days=age_days, kind=kind, priority=priority, client=client)
    )
    return [UUID(int=(0x7000_8000 << 48) + first + n) for n in range(count)]


def _letters(store: Store) -> DeadLetters:
    return DeadLetters(DeadLetterStore(store.pool), DEADLINES)


async def test_letters_that_cannot_be_requeued_hide_none_that_can(store: Store) -> None:
    expired, unconfigured = _add(store, 0, 8, age_days=2), _add(store, 10, 8, provider="gone")
    well = _add(store, 20, 3)
    letters, any_letter = _letters(store), Filter()
    assert [each.id for each in await letters.requeueable(any_letter, BEFORE_ALL, 2)] == well[:2]
    done = await letters.requeue(any_letter, BEFORE_ALL, 2, skip=True)
    assert done.moved == well[:2]
    assert (done.expired, done.unconfigured) == (expired[:2], [])  # as many as requested
    done = await letters.requeue(any_letter, BEFORE_ALL, 100, skip=True)
    assert (done.moved, done.expired, done.unconfigured) == (well[2:], expired, unconfigured)


async def test_every_kind_and_priority_has_its_queues_deadline(store: Store) -> None:
    requeueable = [
        *_add(store, 0, kind=Kind.REPORT),
        *_add(store, 1, kind=Kind.CALLBACK),
        *_add(store, 2, priority=Priority.HIGH),
        *_add(store, 3, provider="other"),
    ]
    old = [*_add(store, 10, kind=Kind.REPORT, age_days=2), *_add(store, 11, priority=Priority.HIGH, age_days=2)]
    done = await _letters(store).requeue(Filter(), BEFORE_ALL, 100, skip=True)
    assert (done.moved, done.expired, done.unconfigured) == (requeueable, old, [])


async def test_another_provider_and_a_new_deadline_bring_them_back(store: Store) -> None:
    unconfigured, expired = _add(store, 0, 2, provider="gone"), _add(store, 10, 2, age_days=2)
    letters = _letters(store)
    done = await letters.requeue(Filter(), BEFORE_ALL, 100, "other", skip=True)
    assert (done.moved, done.expired, done.unconfigured) == (unconfigured, expired, [])
    done = await letters.requeue(Filter(), BEFORE_ALL, 100, extend=True, skip=True)
    assert (done.moved, done.expired) == (expired, [])
    assert store.rows("SELECT DISTINCT queue FROM outbox ORDER BY 1") == [
        ("messages.other.normal",),
        ("messages.sandbox.normal",),
    ]


@pytest.mark.parametrize("only", [None, Requeueable(DEADLINES)])
async def test_one_clients_letters_are_found_by_their_index_in_order(store: Store, only: Requeueable | None) -> None:
    _add(store, 0, 5000, client="big")
    _add(store, 10_000, 10, client="small")
    store.rows("ANALYZE")
    statement, parameters = page_statement(Filter(client_id="small"), BEFORE_ALL, 50, only)
    rows = await store.pool.fetch(sa.text(f"EXPLAIN (COSTS OFF) {statement.text}"), 10, **parameters)
    plan = "\n".join(row["QUERY PLAN"] for row in rows)
    assert "jobs_dead_by_client" in plan and "Seq Scan" not in plan and "Sort" not in plan, plan


async def test_a_preview_counts_all_letters_and_those_that_can_be_requeued(store: Store) -> None:
    expired, gone, well = _add(store, 0, 4, age_days=2), _add(store, 10, 2, provider="gone"), _add(store, 20, 3)
    letters = _letters(store)
    found = await letters.preview_requeue(Filter())
    assert (found.count, found.requeueable) == (len(expired + gone + well), len(well))
    assert (await letters.preview_requeue(Filter(), extend=True)).requeueable == len(expired + well)
    assert (await letters.preview_requeue(Filter(), "other")).requeueable == len(gone + well)


async def test_a_preview_excludes_later_failures(store: Store) -> None:
    _add(store, 0, 2)
    letters = _letters(store)
    found = await letters.preview(Filter())
    (later,) = _add(store, 10)
    assert [letter.id async for letter in letters.each(found.filter)] != []
    assert later not in [letter.id async for letter in letters.each(found.filter)]
    earlier = found.filter.failed_before
    assert (await letters.preview(found.filter)).filter.failed_before == earlier  # a bound never moves forward


async def test_groups_of_the_first_letters_are_bounded(store: Store) -> None:
    _add(store, 0, 5)
    _add(store, 10, 5, kind=Kind.REPORT)
    groups = await DeadLetterStore(store.pool).groups(Filter(), 5, most=7)
    assert sum(group.count for group in groups) == 7
    assert sum(group.count for group in await DeadLetterStore(store.pool).groups(Filter(), 5)) == 10
