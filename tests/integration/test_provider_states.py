"""Providers: waiting jobs by provider, paused providers, and moves between providers."""

from dataclasses import replace

from infra.postgres.providers import ProviderStore
from jobs.decision import decide
from jobs.model import NewJob, Priority, message_queue
from jobs.outcome import Outcome, Verdict
from jobs.retry import RetryPolicy
from tests.support.factories import claim_request, message, report
from tests.support.ledger import Store

RETRYABLE = Outcome(Verdict.RETRYABLE, "http_500", 500)


async def _waiting(store: Store, provider: str = "old", priority: Priority = Priority.NORMAL) -> NewJob:
    new = replace(message(), queue=message_queue(provider, priority))
    await store.ledger.accept([new], 5)
    return new


async def _processing(store: Store, provider: str = "old") -> NewJob:
    new = await _waiting(store, provider)
    assert await store.ledger.claim([claim_request(new.id)], 5) != [None]
    return new


async def _retrying(store: Store) -> NewJob:
    new = await _waiting(store)
    (job,) = await store.ledger.claim([claim_request(new.id)], 5)
    assert job is not None
    await store.ledger.apply([decide(job, RETRYABLE, RetryPolicy(), ran_seconds=0.1, jitter=0.5)], 5)
    return new


async def _failed(store: Store) -> NewJob:
    new = await _waiting(store)
    (job,) = await store.ledger.claim([claim_request(new.id)], 5)
    assert job is not None
    rejected = Outcome(Verdict.REJECTED, "http_400", 400)
    await store.ledger.apply([decide(job, rejected, RetryPolicy(), ran_seconds=0.1, jitter=0.5)], 5)
    return new


async def test_waiting_and_processing_messages_are_counted_by_provider(store: Store) -> None:
    book = ProviderStore(store.pool)
    await store.ledger.accept([report()], 5)
    for _ in range(2):
        await _waiting(store)
    await _retrying(store)
    await _processing(store)
    await _failed(store)
    await _processing(store, "other")
    await book.pause("idle", 5)
    states = await book.states(5)
    counts = {name: (state.waiting, state.processing, state.paused_at is not None) for name, state in states.items()}
    assert counts == {"old": (3, 1, False), "other": (0, 1, False), "idle": (0, 0, True)}


async def test_a_pause_is_one_provider_s_and_can_be_repeated_and_resumed(store: Store) -> None:
    book = ProviderStore(store.pool)
    for name in ("one", "one", "other"):
        await book.pause(name, 5)
    assert await book.paused(5) == {"one", "other"}
    for _ in range(2):
        await book.resume("one", 5)
    assert await book.paused(5) == {"other"}


async def test_only_what_waits_for_the_provider_at_that_priority_is_moved(store: Store) -> None:
    queued, retrying = await _waiting(store), await _retrying(store)
    waiting = [
        await _waiting(store, "other"),
        await _waiting(store, priority=Priority.HIGH),
        await _processing(store),
        await _failed(store),
    ]
    before = store.rows("SELECT id, provider, version, status FROM jobs ORDER BY id")
    assert await ProviderStore(store.pool).move("old", "new", Priority.NORMAL, 5) == 2
    after = store.rows("SELECT id, provider, version, status FROM jobs ORDER BY id")
    moved = {str(queued.id): 2, str(retrying.id): 4}
    assert {str(id_): version for id_, provider, version, _ in after if provider == "new"} == moved
    assert [row for row in after if str(row[0]) not in moved] == [row for row in before if str(row[0]) not in moved]
    assert {str(id_) for id_, *_ in after} == set(moved) | {str(job.id) for job in waiting}
    rows = store.rows("SELECT CAST(job_id AS text), version, route FROM outbox WHERE queue = 'messages.new.normal'")
    assert sorted(rows) == sorted((id_, version, "work") for id_, version in moved.items())


async def test_a_moved_message_has_one_outbox_row_and_its_old_copy_is_stale(store: Store) -> None:
    new = await _waiting(store)
    assert await ProviderStore(store.pool).move("old", "new", Priority.NORMAL, 5) == 1
    assert store.rows("SELECT version, queue FROM outbox") == [(2, "messages.new.normal")]
    assert await store.ledger.claim([claim_request(new.id, 1)], 5) == [None]
    (job,) = await store.ledger.claim([claim_request(new.id, 2)], 5)
    assert job is not None and job.queue == message_queue("new")


async def test_messages_are_moved_in_portions(store: Store) -> None:
    for _ in range(3):
        await _waiting(store)
    book = ProviderStore(store.pool)
    assert [await book.move("old", "new", Priority.NORMAL, 5, 2) for _ in range(3)] == [2, 1, 0]
