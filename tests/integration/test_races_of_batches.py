"""The races that DESIGN's batching rules close. Each test fails without its rule."""

import asyncio
import random
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from infra.postgres.errors import BadData, Unavailable
from infra.postgres.ledger import Ledger
from infra.postgres.pool import DatabasePool
from infra.postgres.transitions import accept, apply, claim
from infra.postgres.transitions.accept import Accepted, KeyReused
from infra.postgres.transitions.apply import Applied
from infra.postgres.transitions.claim import ClaimRequest
from jobs.decision import decide
from jobs.lifecycle import Status
from jobs.model import Claimed, IdempotencyKey, NewJob, Transition
from jobs.outcome import NOT_STARTED, Outcome, Verdict
from jobs.retry import RetryPolicy
from service.batching import Batcher, DeadlineExceeded, ledger_batcher
from tests.support.factories import ACCEPTED, claim_request, message
from tests.support.ledger import ProxiedStore
from tests.support.proxy import executed
from tests.support.services import with_port
from tests.support.waiting import eventually


def accepting(proxied_store: ProxiedStore) -> Batcher[NewJob, Accepted | KeyReused]:
    return ledger_batcher(proxied_store.ledger.accept)


def claiming(proxied_store: ProxiedStore) -> Batcher[ClaimRequest, Claimed | None]:
    return ledger_batcher(proxied_store.ledger.claim, key=lambda r: (r.id, r.version), duplicate=lambda _: None)


def applying(proxied_store: ProxiedStore) -> Batcher[Transition, Applied | None]:
    return ledger_batcher(proxied_store.ledger.apply)


async def _accepted(proxied_store: ProxiedStore, new: NewJob | None = None) -> Accepted:
    accepted = await accepting(proxied_store).submit(new or message(), 5)
    assert isinstance(accepted, Accepted)
    return accepted


async def _claimed(proxied_store: ProxiedStore) -> Claimed:
    job = await claiming(proxied_store).submit(claim_request((await _accepted(proxied_store)).id), 5)
    assert job is not None
    return job


async def test_of_two_copies_in_one_claim_batch_one_wins(proxied_store: ProxiedStore) -> None:
    accepted = await _accepted(proxied_store)
    claims = claiming(proxied_store)
    answers = await asyncio.gather(*(claims.submit(claim_request(accepted.id), 5) for _ in range(2)))
    assert [answer is not None for answer in answers] == [True, False]


async def test_two_copies_in_two_processes_at_once_are_claimed_once(proxied_store: ProxiedStore) -> None:
    accepted = await _accepted(proxied_store)
    answers = await asyncio.gather(*(claiming(proxied_store).submit(claim_request(accepted.id), 5) for _ in range(4)))
    assert sum(answer is not None for answer in answers) == 1


async def test_a_connection_lost_after_the_commit_of_an_accept_gives_one_job(proxied_store: ProxiedStore) -> None:
    new = message()
    proxied_store.proxy.cut_on_answer(executed(accept.ACCEPT))
    accepted = await _accepted(proxied_store, new)
    assert proxied_store.proxy.answers_cut == 1
    assert accepted.id == new.id
    assert proxied_store.rows("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM outbox)") == [(1, 1)]


async def test_a_connection_lost_after_the_commit_of_a_claim_keeps_the_claim(proxied_store: ProxiedStore) -> None:
    accepted = await _accepted(proxied_store)
    proxied_store.proxy.cut_on_answer(executed(claim.CLAIM))
    job = await claiming(proxied_store).submit(claim_request(accepted.id), 5)
    assert proxied_store.proxy.answers_cut == 1
    assert job is not None and job.version == 2
    assert proxied_store.rows("SELECT version FROM jobs") == [(2,)]


@pytest.mark.parametrize(
    ("outcome", "status", "attempts"),
    [
        (ACCEPTED, Status.SENT, 1),
        (Outcome(Verdict.RETRYABLE, "http_500", 500), Status.RETRYING, 1),
        (Outcome(Verdict.REJECTED, "http_400", 400), Status.FAILED, 1),
        (NOT_STARTED, Status.QUEUED, 0),
    ],
)
async def test_a_connection_lost_after_the_commit_of_an_outcome_records_it_once(
    proxied_store: ProxiedStore, outcome: Outcome, status: Status, attempts: int
) -> None:
    job = await _claimed(proxied_store)
    step = decide(job, outcome, RetryPolicy(), ran_seconds=0.1, jitter=0.5)
    proxied_store.proxy.cut_on_answer(executed(apply.APPLY))
    applied = await applying(proxied_store).submit(step, 5)
    assert proxied_store.proxy.answers_cut == 1
    assert applied is not None and (applied.status, applied.version) == (status, 3)
    assert proxied_store.rows("SELECT status, version, attempts FROM jobs") == [(status, 3, attempts)]
    assert proxied_store.rows("SELECT count(*) FROM attempts") == [(attempts,)]


async def test_the_headers_of_a_dead_letter_survive_a_lost_answer(proxied_store: ProxiedStore) -> None:
    job = await _claimed(proxied_store)
    step = decide(job, Outcome(Verdict.REJECTED, "http_400", 400), RetryPolicy(), ran_seconds=0.1, jitter=0.5)
    proxied_store.proxy.cut_on_answer(executed(apply.APPLY))
    applied = await applying(proxied_store).submit(step, 5)
    assert applied is not None and applied.publish and applied.headers
    assert applied.headers["reason"] == "http_400"
    assert applied.headers["attempts"] == 1


# A rollback keeps the sequence's values, so the sequence counts the tries.
_FAILING = """
CREATE SEQUENCE tries;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM nextval('tries'); RAISE EXCEPTION 'a disk error' USING ERRCODE = '58030'; END $$;
CREATE TRIGGER failing BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.status = 'sent') EXECUTE FUNCTION fail()
"""


async def test_outcomes_outlast_an_error_of_postgres_that_no_rule_names(proxied_store: ProxiedStore) -> None:
    jobs = [await _claimed(proxied_store) for _ in range(3)]
    proxied_store.rows(_FAILING)

    async def tries() -> int:
        return int(str(proxied_store.rows("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tries")[0][0]))

    applies = applying(proxied_store)
    steps = [decide(job, ACCEPTED, RetryPolicy(), ran_seconds=0.1, jitter=0.5) for job in jobs]
    waiting = [asyncio.create_task(applies.submit(step)) for step in steps]
    await eventually(tries, lambda count: count >= 2)
    proxied_store.rows("DROP TRIGGER failing ON jobs")
    applied = await asyncio.gather(*waiting)
    assert [step and step.status for step in applied] == [Status.SENT] * 3


async def test_one_bad_item_fails_alone(proxied_store: ProxiedStore) -> None:
    batch = accepting(proxied_store)
    good, bad, other = message(), message(body="a NUL \0 in the middle"), message()
    answers = await asyncio.gather(*(batch.submit(m, 5) for m in (good, bad, other)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Accepted, BadData, Accepted]
    assert proxied_store.rows("SELECT count(*) FROM jobs") == [(2,)]


async def test_overlapping_batches_of_keys_make_one_job_each_and_do_not_deadlock(proxied_store: ProxiedStore) -> None:
    def batch(keys: list[str]) -> list[NewJob]:
        return [replace(message(), key=IdempotencyKey("/messages", key, "the same")) for key in keys]

    shuffle, rounds, size = random.Random(1), 8, 300
    for turn in range(rounds):
        keys = [f"{turn}.{n}" for n in range(size)]
        answers = await asyncio.gather(*(proxied_store.ledger.accept(batch(shuffle.sample(keys, size)), 10) for _ in range(4)))
        assert len({answer.id for each in answers for answer in each if isinstance(answer, Accepted)}) == size
    assert proxied_store.rows("SELECT count(*) FROM jobs") == [(rounds * size,)]


async def test_overlapping_batches_of_three_processes_do_not_deadlock(proxied_store: ProxiedStore) -> None:
    new = [message() for _ in range(300)]
    await proxied_store.ledger.accept(new, 5)
    ids = [str(each.id) for each in new]
    command = [sys.executable, "-m", "tests.integration.deadlock_worker", proxied_store.database]
    processes = [
        await asyncio.create_subprocess_exec(*command, str(seed), "40", *ids, stdout=subprocess.PIPE) for seed in range(3)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert [output for output, _ in outputs] == [b"0", b"0", b"0"], "deadlocks met by each process"
    ((versions,),) = proxied_store.rows("SELECT sum(version) FROM jobs")
    assert int(str(versions)) > 300 * 10  # the processes did compete


async def test_a_frozen_postgres_frees_the_caller_and_the_thread_at_the_deadline(proxied_store: ProxiedStore) -> None:
    batch = accepting(proxied_store)
    await batch.submit(message(), 5)
    await proxied_store.proxy.freeze()
    took = []
    for _ in range(6):  # more often than the pool has threads: no thread may stay blocked
        started = time.monotonic()
        with pytest.raises((DeadlineExceeded, Unavailable)):
            await batch.submit(message(), 0.3)
        took.append(time.monotonic() - started)
    assert max(took) < 5  # by the deadline of 0.3 s, and not by the server's of ten
    await proxied_store.proxy.thaw()
    assert (await batch.submit(message(), 8)) is not None


async def test_a_connection_that_is_silent_for_ever_costs_its_thread_one_deadline(proxied_store: ProxiedStore) -> None:
    pool = DatabasePool(with_port(proxied_store.database, proxied_store.proxy.port), name="one thread", threads=1)
    ledger = Ledger(pool, grace_seconds=5)
    await ledger.accept([message()], 5)
    proxied_store.proxy.forsake()
    with pytest.raises(Unavailable):
        await ledger.accept([message()], 0.3)
    await ledger.accept([message()], 5)
    pool.close()


async def test_contact_is_broken_by_an_outage_and_counts_anew(proxied_store: ProxiedStore) -> None:
    await proxied_store.ledger.accept([message()], 5)
    before = proxied_store.pool.contact_seconds()
    assert before >= 0
    await proxied_store.proxy.refuse()
    with pytest.raises(Unavailable):
        await proxied_store.ledger.accept([message()], 1)
    assert proxied_store.pool.contact_seconds() == 0
    back_at = time.monotonic()
    await proxied_store.proxy.accept()
    await proxied_store.ledger.accept([message()], 5)
    assert 0 < proxied_store.pool.contact_seconds() <= time.monotonic() - back_at
