"""Rows of jobs have the fields that their types promise, and belong to the client and the kind that were requested."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from infra.postgres.job_reads import BEHIND_ALL, Attempt, Callback, JobReads, MessageRecord, MessageRow, ReportRecord
from jobs.decision import decide
from jobs.model import Kind, NewJob
from jobs.reports import ReportParameters
from jobs.retry import RetryPolicy
from tests.support.factories import ACCEPTED, claim_request, message, new_id, report
from tests.support.ledger import Store

CALLBACK = """
INSERT INTO jobs (id, kind, destination, body, status, version, parent_id, parent_version)
VALUES (gen_random_uuid(), 'callback', 'https://example.com', '{{"type": "message.sent"}}', 'queued', 1, '{}', 3)
"""
# Of a report that an earlier release has computed.
NO_DETAIL = dict.fromkeys(("partitions", "of_partitions", "posts_per_second", "seconds_left", "snapshot_at", "restarts"), None)


async def _accept(store: Store, job: NewJob) -> UUID:
    await store.ledger.accept([job], 5)
    return job.id


async def test_rows_have_the_fields_of_their_types(store: Store) -> None:
    reads, id_, report_id = JobReads(store.pool), await _accept(store, message()), await _accept(store, report())
    (claimed,) = await store.ledger.claim([claim_request(id_)], 5)
    assert claimed is not None
    await store.ledger.apply([decide(claimed, ACCEPTED, RetryPolicy(), ran_seconds=1, jitter=0)], 5)
    store.rows(CALLBACK.format(id_))
    rows: dict[type, list[Any]] = {
        MessageRecord: await reads.messages([(id_, "default")], 5),
        MessageRow: await reads.message_page("default", {}, BEHIND_ALL, 10, 5),
        ReportRecord: await reads.reports([(report_id, "default")], 5),
        Attempt: await reads.attempts(id_, "default", Kind.MESSAGE, 5) or [],
        Callback: await reads.callbacks(id_, "default", Kind.MESSAGE, 5) or [],
    }
    for type_, (row,) in rows.items():
        assert row.keys() == type_.__annotations__.keys()
    assert await reads.report_page("default", BEHIND_ALL, 10, 5) == rows[ReportRecord]


async def test_records_are_in_order_and_of_their_client_and_kind(store: Store) -> None:
    reads, one, two, other = JobReads(store.pool), message("+1"), message("+2"), report()
    for job in (one, two, other):
        await _accept(store, job)
    keys = [(two.id, "default"), (one.id, "stranger"), (one.id, "default"), (other.id, "default"), (new_id(), "default")]
    messages = await reads.messages(keys, 5)
    assert [row and row["destination"] for row in messages] == ["+2", None, "+1", None, None]
    assert [row and row["id"] for row in await reads.reports(keys, 5)] == [None, None, None, other.id, None]


@pytest.mark.parametrize(
    ("done", "about", "progress"),
    [
        ("NULL", "NULL", None),
        ("3", "NULL", {"posts": 3, "of_about": None}),
        ("3", "7", {"posts": 3, "of_about": 7}),
        ("9", "7", {"posts": 9, "of_about": 9}),
    ],
)
async def test_progress_never_exceeds_its_estimate(
    store: Store, done: str, about: str, progress: dict[str, Any] | None
) -> None:
    id_ = await _accept(store, report())
    store.rows(f"UPDATE jobs SET progress_done = {done}, progress_about = {about} WHERE id = '{id_}'")
    (record,) = await JobReads(store.pool).reports([(id_, "default")], 5)
    assert record is not None and record["progress"] == (progress and {**NO_DETAIL, **progress})


async def test_the_estimate_of_a_completed_report_is_its_count(store: Store) -> None:
    id_ = await _accept(store, report())
    store.rows(f"UPDATE jobs SET status = 'completed', progress_done = 7, progress_about = 9 WHERE id = '{id_}'")
    (record,) = await JobReads(store.pool).reports([(id_, "default")], 5)
    assert record is not None and record["progress"] == {**NO_DETAIL, "posts": 7, "of_about": 7}


async def test_the_record_of_a_report_has_the_detail_of_its_progress_and_its_parameters(store: Store) -> None:
    chosen = ReportParameters(datetime(2026, 1, 1, tzinfo=UTC), None, (3, 1), "words", 5, True)
    ids = [await _accept(store, replace(report(), body=body)) for body in (chosen.to_body(), None)]
    ids.append(await _accept(store, message(body="not JSON")))
    detail = {**NO_DETAIL, "partitions": 3, "of_partitions": 9, "posts_per_second": 100, "seconds_left": 1.5, "restarts": 1}
    store.rows(f"UPDATE jobs SET progress_done = 3, progress_detail = '{json.dumps(detail)}' WHERE id = '{ids[0]}'")
    first, second, other = await JobReads(store.pool).reports([(id_, "default") for id_ in ids], 5)
    assert first is not None and first["progress"] == {**detail, "posts": 3, "of_about": None}
    wanted = {"from": "2026-01-01T00:00:00Z", "user_ids": [1, 3], "order": "words", "limit": 5, "histogram": "words"}
    assert first["parameters"] == wanted
    assert second is not None and (second["parameters"], second["progress"]) == ({}, None)
    assert other is None
