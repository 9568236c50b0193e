"""The console's search: each filter, its pages and counts, over one client and over all, at a bounded cost."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from uuid import UUID

import pytest
import sqlalchemy as sa

from infra.postgres import message_search
from infra.postgres.api_keys import ApiKeyStore
from infra.postgres.job_reads import BEHIND_ALL
from infra.postgres.message_search import Count, FoundMessage, MessageFilter, MessageSearch, statements_of
from jobs.lifecycle import Status
from jobs.model import NewJob, message_queue
from tests.support.factories import message, report
from tests.support.ledger import Store

ALL = MessageFilter()
SHOP = MessageFilter(client_id="shop")


def _at(second: int) -> tuple[UUID, datetime]:
    """An id of a second of the year 2026, and the second."""
    at = datetime(2026, 5, 1, 12, 0, second, tzinfo=UTC)
    return UUID(int=(int(at.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | second), at


def _message(second: int, client: str, **fields: str) -> NewJob:
    provider = fields.pop("provider", "sandbox")
    tags = tuple(fields.pop("tags", "").split())
    new = replace(message(), id=_at(second)[0], client_id=client, queue=message_queue(provider), tags=tags)
    return replace(new, **fields)  # type: ignore[arg-type]


JOBS = [
    _message(1, "default", destination="+1"),
    _message(2, "shop", destination="+1", reference="order", tags="a b"),
    replace(report(), id=_at(3)[0]),
    _message(4, "shop", destination="+2", reference="order", provider="other"),
    _message(5, "post", destination="+1", reference="order", tags="a", provider="other"),
    _message(6, "shop", destination="+1", tags="b"),
]
SENT = {2, 5}


@pytest.fixture
async def search(store: Store) -> MessageSearch:
    for client in ("shop", "post"):  # `default` has no row: its jobs were accepted without a key
        await ApiKeyStore(store.pool).create_client(client, 5)
    await store.ledger.accept(JOBS, 5)
    sent = ", ".join(f"'{_at(second)[0]}'" for second in SENT)
    store.rows(f"UPDATE jobs SET status = 'sent' WHERE id IN ({sent})")
    return MessageSearch(store.pool)


def _seconds(messages: list[FoundMessage]) -> list[int]:
    return [each["id"].int & 0xFF for each in messages]


EXPECTED = [
    (ALL, [6, 5, 4, 2, 1]),
    (SHOP, [6, 4, 2]),
    (MessageFilter(client_id="nobody"), []),
    (MessageFilter(status=Status.SENT), [5, 2]),
    (MessageFilter(destination="+1"), [6, 5, 2, 1]),
    (MessageFilter(reference="order"), [5, 4, 2]),
    (MessageFilter(tag="a"), [5, 2]),
    (MessageFilter(provider="other"), [5, 4]),
    (replace(SHOP, provider="other"), [4]),
    (replace(SHOP, tag="b", status=Status.QUEUED), [6]),
    (MessageFilter(tag="a", reference="order", destination="+1", status=Status.SENT, provider="other"), [5]),
    (MessageFilter(accepted_after=_at(2)[1], accepted_before=_at(5)[1]), [4, 2]),
    (replace(SHOP, accepted_after=_at(3)[1]), [6, 4]),
    (MessageFilter(destination="+1", accepted_before=_at(2)[1]), [1]),
    (
        MessageFilter(accepted_after=datetime(1, 1, 1, tzinfo=UTC), accepted_before=datetime(9999, 1, 1, tzinfo=UTC)),
        [6, 5, 4, 2, 1],
    ),
]


@pytest.mark.parametrize(("filter_", "seconds"), EXPECTED, ids=str)
async def test_each_filter_finds_exactly_its_messages(
    search: MessageSearch, filter_: MessageFilter, seconds: list[int]
) -> None:
    page = await search.page(filter_, BEHIND_ALL, 10, 5)
    assert (_seconds(page.messages), page.next_before, page.searched) == (seconds, None, None)
    assert await search.count(filter_, 5) in (Count(len(seconds), is_exact=True), None)
    assert all(row.keys() == FoundMessage.__annotations__.keys() for row in page.messages)


@pytest.mark.parametrize("filter_", [ALL, MessageFilter(destination="+1"), MessageFilter(provider="other"), SHOP])
async def test_pages_continue_where_the_page_before_ended(search: MessageSearch, filter_: MessageFilter) -> None:
    expected = dict(EXPECTED)[filter_]
    before, found = BEHIND_ALL, []
    for _ in expected:
        page = await search.page(filter_, before, 1, 5)
        found += _seconds(page.messages)
        if page.next_before is None:
            break
        before = page.next_before
    assert found == expected and page.next_before is None


async def test_a_search_stops_after_so_many_candidates_and_continues(
    search: MessageSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_search, "SCAN", 2)
    found, before = [], BEHIND_ALL
    for cut in (True, True, True, False):
        page = await search.page(MessageFilter(provider="sandbox"), before, 10, 5)
        found.append(_seconds(page.messages))
        assert page.searched == (2 if cut else None), found
        before = page.next_before or before
    assert found == [[6], [], [2, 1], []]  # of the jobs 6 5, then 4 3, then 2 1
    monkeypatch.setattr(message_search, "MERGED_SCAN", 1)
    page = await search.page(MessageFilter(destination="+1", provider="other"), BEHIND_ALL, 10, 5)
    assert (page.messages, page.searched, page.next_before) == ([], 1, _at(6)[0])


async def test_counts_are_bounded_and_those_of_one_index(search: MessageSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_search, "COUNT_LIMIT", 2)
    for filter_ in (SHOP, MessageFilter(destination="+1"), MessageFilter(tag="a"), replace(SHOP, status=Status.QUEUED)):
        assert await search.count(filter_, 5) == Count(2, is_exact=False), filter_
    assert await search.count(ALL, 5) == Count(2, is_exact=False)
    for filter_ in (MessageFilter(provider="other"), replace(SHOP, tag="b", status=Status.QUEUED)):
        assert await search.count(filter_, 5) is None


async def test_the_position_of_a_message_is_that_of_no_other_job(search: MessageSearch) -> None:
    position = await search.position(_at(2)[0], 5)
    assert position is not None and (position.client_id, position.revision) == ("shop", 0)
    assert await search.position(_at(3)[0], 5) is None  # a report
    assert await search.position(_at(7)[0], 5) is None


FILTERS = ("client_id", "status", "destination", "tag", "reference", "provider")
FILL = """
INSERT INTO jobs (id, client_id, kind, provider, destination, reference, status)
SELECT CAST(lpad(to_hex(1777000000000 + n), 12, '0') || '70008000000000000000' AS uuid), 'c' || n % 20, 'message', 'p',
    '+' || n % 1000, 'r' || n % 5000, CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'sent' END FROM generate_series(1, 20000) n;
INSERT INTO message_tags (client_id, tag, job_id) SELECT client_id, 't', id FROM jobs;
INSERT INTO clients (id) SELECT 'c' || n FROM generate_series(0, 19) n;
ANALYZE
"""
INDEXES = {"tag": "message_tags_pkey", "reference": "jobs_by_reference", "destination": "jobs_by_destination"}


def test_every_combination_of_filters_goes_by_an_index(database: str, store: Store) -> None:
    store.rows(FILL)
    sets = [frozenset(names) for size in range(len(FILTERS) + 1) for names in combinations(FILTERS, size)]
    values = {"client_id": "c1", "status": "sent", "destination": "+1", "tag": "t", "reference": "r1", "provider": "p"}
    bounds = {"before": str(BEHIND_ALL), "since": str(UUID(int=0)), "scan": 51, "limit": 51}
    with store.pool.engine.connect() as connection:
        for names in sets:
            statements = statements_of(names)
            for statement in (statements.page, statements.last_candidate, statements.count):
                if statement is None:
                    continue
                bound = {name: value for name, value in {**values, **bounds}.items() if f":{name}" in statement.text}
                rows = connection.execute(sa.text(f"EXPLAIN (COSTS OFF) {statement.text}"), bound)
                plan = "\n".join(row[0] for row in rows)
                assert "Seq Scan on jobs" not in plan and "Seq Scan on message_tags" not in plan, plan
                assert next((index for name, index in INDEXES.items() if name in names), "jobs_") in plan, plan
