"""Each way to a worker continues the trace: every outbox row has its job's traceparent."""

from dataclasses import replace

from infra.postgres.dead_letters import BEFORE_ALL, DeadLetterStore, Filter
from infra.postgres.outbox import Outbox
from infra.postgres.providers import ProviderStore
from infra.postgres.sweep import Sweep
from jobs.decision import decide
from jobs.model import Kind, Priority, message_queue
from jobs.outcome import Outcome, Verdict
from jobs.retry import RetryPolicy
from jobs.wire import Pointer
from tests.support.factories import claim_request, message
from tests.support.ledger import Store

TRACE = f"00-{'1' * 32}-{'a' * 16}-01"
NEW = replace(message(), traceparent=TRACE, callback_url="https://receiver.example")
SECONDS = 5.0


def _outbox(store: Store) -> list[tuple[object, ...]]:
    return store.rows("SELECT route, queue, traceparent FROM outbox ORDER BY queue")


async def test_acceptance_claim_end_callback_and_requeue_keep_the_trace(store: Store) -> None:
    await store.ledger.accept([NEW], SECONDS)
    assert _outbox(store) == [("work", "messages.sandbox.normal", TRACE)]
    store.rows("UPDATE outbox SET due_at = now()")
    (due,) = await Outbox(store.pool).take("messages.sandbox.normal", 10, SECONDS)
    await Outbox(store.pool).delete([due.pointer], SECONDS)
    (job,) = await store.ledger.claim([claim_request(NEW.id)], SECONDS)
    assert job is not None and due.traceparent == job.traceparent == TRACE
    step = decide(job, Outcome(Verdict.REJECTED, "http_400", 400), RetryPolicy(), ran_seconds=0.1, jitter=0.0)
    (applied,) = await store.ledger.apply([step], SECONDS)
    assert applied is not None and applied.traceparent == TRACE
    dead = ("dead", "messages.dead", TRACE)
    assert _outbox(store) == [("work", "callbacks", TRACE), dead]
    assert set(store.rows("SELECT kind, traceparent FROM jobs")) == {("message", TRACE), ("callback", TRACE)}

    store.rows("DELETE FROM outbox")
    await Sweep(store.pool).refill_dead(Kind.MESSAGE, str(BEFORE_ALL), SECONDS)
    assert _outbox(store) == [dead]
    letters = DeadLetterStore(store.pool)
    (letter,) = await letters.page(Filter(), BEFORE_ALL, 10, SECONDS)
    assert await letters.requeue([(letter, letter.queue)], SECONDS) == {NEW.id}
    assert _outbox(store) == [("work", "messages.sandbox.normal", TRACE)]


async def test_a_move_and_a_sweep_keep_the_trace(store: Store) -> None:
    await store.ledger.accept([NEW], SECONDS)
    assert await ProviderStore(store.pool).move("sandbox", "other", Priority.NORMAL, SECONDS) == 1
    moved = [("work", "messages.other.normal", TRACE)]
    assert _outbox(store) == moved
    await Outbox(store.pool).delete([Pointer(NEW.id, 2)], SECONDS)
    sweep, queue = Sweep(store.pool), message_queue("other")
    store.rows("UPDATE jobs SET due_at = now() - interval '1 hour'")
    now = (await sweep.observe(queue, behind_seconds=5, timeout=SECONDS)).now
    assert (await sweep.requeue(queue, before=now, after=None, timeout=SECONDS)).requeued == 1
    assert _outbox(store) == moved
