"""Ended jobs are deleted, dead letters stay, and all messages to one destination can be erased."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumers.maintenance import clean
from infra.postgres.ledger import Ledger
from infra.postgres.pool import DatabasePool
from infra.postgres.retention import Retention
from jobs.model import Kind
from tests.support.receiver import CALLBACKS_ON, receiving
from tests.support.services import Services, sql
from tests.support.stack import Stack, running
from tests.support.waiting import eventually


@pytest.fixture
async def stack(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(services, database, broker_namespace, tmp_path, **CALLBACKS_ON) as stack:
        stack.start("others", "consumers", "reports", "callbacks")
        yield stack


async def _some(stack: Stack, destination: str, url: str | None = None) -> dict[str, str]:
    """Create a sent message and a failed one."""
    sent = await stack.submit(destination, tags=["t", "u"], callback_url=url)
    await stack.becomes(sent, "sent")
    await stack.faults(fail=1, fail_status=400)
    failed = await stack.submit(destination, tags=["t"], callback_url=url)
    await stack.becomes(failed, "failed")
    await stack.faults(fail=0)
    return {"sent": sent, "failed": failed}


def _count(stack: Stack, table: str) -> int:
    return int(str(stack.rows(f"SELECT count(*) FROM {table}")[0][0]))


async def test_jobs_that_ended_long_ago_are_deleted_and_dead_letters_stay(stack: Stack) -> None:
    ids = await _some(stack, "+1")
    fresh = await stack.submit("+1")
    await stack.becomes(fresh, "sent")
    sql(stack.database, f"UPDATE jobs SET finished_at = finished_at - interval '31 days' WHERE id <> '{fresh}'")
    pool = DatabasePool(stack.database, name="test", threads=1)
    ledger, retention, days = Ledger(pool, grace_seconds=1), Retention(pool), {Kind.MESSAGE: 30.0}
    assert await clean(ledger, retention, days) == 1
    assert await clean(ledger, retention, days) == 0
    pool.close()
    assert (await stack.get(f"/messages/{ids['sent']}"))[0] == 404
    assert await stack.status(ids["failed"]) == "failed" and await stack.status(fresh) == "sent"
    assert stack.rows(f"SELECT count(*) FROM attempts WHERE job_id = '{ids['sent']}'") == [(0,)]
    assert stack.rows(f"SELECT count(*) FROM message_tags WHERE job_id = '{ids['sent']}'") == [(0,)]
    done = await stack.command("dead-letters", "discard", "--id", ids["failed"], "--yes")
    assert done.returncode == 0, done.stderr
    refused = await stack.command("purge", "--older-than", "0", "--kind", "message")
    assert refused.returncode == 2 and _count(stack, "jobs") == 2
    assert "Delete 2 finished jobs older than 0 days permanently?" in refused.stderr and "--yes" in refused.stderr
    done = await stack.command("purge", "--older-than", "0", "--kind", "message", "--yes")
    assert "purge: 2 jobs deleted" in done.stdout, done.stderr
    assert (_count(stack, "jobs"), _count(stack, "attempts"), _count(stack, "message_tags")) == (0, 0, 0)


async def test_all_that_concerns_a_destination_is_erased(stack: Stack) -> None:
    async with receiving() as receiver:
        ids = await _some(stack, "+1", receiver.url)
        other = await stack.submit("+2", callback_url=receiver.url)

        async def callback_count() -> int:
            return int(str(stack.rows("SELECT count(*) FROM jobs WHERE kind = 'callback' AND status = 'sent'")[0][0]))

        await eventually(callback_count, lambda count: count == 3, 20)
    await stack.faults(hang=1)
    waiting = await stack.submit("+1")
    done = await stack.command("erase", "--destination", "+1", "--yes")
    assert done.returncode == 3 and "1 messages to this destination are unfinished" in done.stderr
    for id_ in ids.values():
        assert (await stack.get(f"/messages/{id_}"))[0] == 404
    remaining = stack.rows("SELECT CAST(coalesce(parent_id, id) AS text) FROM jobs")
    assert {str(id_) for (id_,) in remaining} == {other, waiting}
    await stack.faults(hang=0)
    await stack.becomes(waiting, "sent")
    done = await stack.command("erase", "--destination", "+1", "--yes")
    assert done.returncode == 0 and "erase: 1 jobs deleted" in done.stdout
    refused = await stack.command("erase", "--destination", "+2")
    assert refused.returncode == 2 and "Delete 1 finished messages to '+2' permanently?" in refused.stderr
    assert await stack.status(other) == "sent"


async def test_bodies_are_forgotten_once_they_are_sent(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, retain_body="false") as stack:
        ids = await _some(stack, "+1")
        assert (await stack.record(ids["sent"]))["body"] is None
        assert (await stack.record(ids["failed"]))["body"] == "hello"
        await stack.command("dead-letters", "requeue", "--yes")
        await stack.becomes(ids["failed"], "sent")
        assert (await stack.record(ids["failed"]))["body"] is None


async def test_neither_bodies_nor_destinations_are_logged_or_travel(stack: Stack) -> None:
    await stack.faults(fail=1, fail_status=400)
    id_ = await stack.submit("+49 whoever", "a word that nobody else says", metadata={"note": "kept to oneself"})
    await stack.becomes(id_, "failed")
    assert await eventually(lambda: stack.ready("messages.dead"), lambda ready: ready == 1, 20)
    logs = "".join(process.output() for process in stack.processes.values())
    headers = stack.rows("SELECT string_agg(CAST(headers AS text), ' ') FROM outbox")
    for secret in ("+49 whoever", "nobody else says", "kept to oneself"):
        assert secret not in logs and secret not in str(headers)
