"""The races that DESIGN's batching rules close: each test fails when its rule is taken out."""

import asyncio
import random
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from infra.postgres.errors import BadData, Unavailable
from infra.postgres.ledger import Ledger
from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.accept import Accepted, KeyReused
from infra.postgres.transitions.batch import Applied
from infra.postgres.transitions.claim import ClaimRequest
from jobs.decision import decide
from jobs.lifecycle import Status
from jobs.model import Claimed, IdempotencyKey, NewJob, Transition
from jobs.outcome import NOT_STARTED, Outcome, Verdict
from jobs.retry import RetryPolicy
from service.batching import Batcher, DeadlineExceeded, ledger_batcher
from tests.integration.conftest import Hurt
from tests.making import ACCEPTED, claim_request, message
from tests.services import with_port
from tests.waiting import eventually


def accepting(hurt: Hurt) -> Batcher[NewJob, Accepted | KeyReused]:
    return ledger_batcher(hurt.ledger.accept)


def claiming(hurt: Hurt) -> Batcher[ClaimRequest, Claimed | None]:
    return ledger_batcher(hurt.ledger.claim, key=lambda r: r.pointer, duplicate=lambda _: None)


def applying(hurt: Hurt) -> Batcher[Transition, Applied | None]:
    return ledger_batcher(hurt.ledger.apply)


async def _accepted(hurt: Hurt, new: NewJob | None = None) -> Accepted:
    accepted = await accepting(hurt).submit(new or message(), 5)
    assert isinstance(accepted, Accepted)
    return accepted


async def _claimed(hurt: Hurt) -> Claimed:
    job = await claiming(hurt).submit(claim_request((await _accepted(hurt)).id), 5)
    assert job is not None
    return job


async def test_of_two_copies_in_one_claim_batch_one_wins(hurt: Hurt) -> None:
    accepted = await _accepted(hurt)
    claims = claiming(hurt)
    answers = await asyncio.gather(*(claims.submit(claim_request(accepted.id), 5) for _ in range(2)))
    assert [answer is not None for answer in answers] == [True, False]


async def test_two_copies_in_two_processes_at_once_are_claimed_once(hurt: Hurt) -> None:
    accepted = await _accepted(hurt)
    answers = await asyncio.gather(*(claiming(hurt).submit(claim_request(accepted.id), 5) for _ in range(4)))
    assert sum(answer is not None for answer in answers) == 1


async def test_a_connection_lost_after_the_commit_of_an_accept_gives_one_job(hurt: Hurt) -> None:
    new = message()
    hurt.proxy.cut_on_answer(b"INSERT INTO jobs")
    accepted = await _accepted(hurt, new)
    assert hurt.proxy.answers_cut == 1
    assert accepted.id == new.id
    assert hurt.rows("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM outbox)") == [(1, 1)]


async def test_a_connection_lost_after_the_commit_of_a_claim_keeps_the_claim(hurt: Hurt) -> None:
    accepted = await _accepted(hurt)
    hurt.proxy.cut_on_answer(b"status = 'processing', version = j.version + 1")
    job = await claiming(hurt).submit(claim_request(accepted.id), 5)
    assert hurt.proxy.answers_cut == 1
    assert job is not None and job.version == 2
    assert hurt.rows("SELECT version FROM jobs") == [(2,)]


@pytest.mark.parametrize(
    ("outcome", "status", "attempts"),
    [
        (ACCEPTED, Status.SENT, 1),
        (Outcome(Verdict.RETRYABLE, "http_500", 500), Status.RETRYING, 1),
        (Outcome(Verdict.REJECTED, "http_400", 400), Status.FAILED, 1),
        (NOT_STARTED, Status.QUEUED, 0),
    ],
)
async def test_a_connection_lost_after_the_commit_of_an_outcome_keeps_it_once(
    hurt: Hurt, outcome: Outcome, status: Status, attempts: int
) -> None:
    job = await _claimed(hurt)
    step = decide(job, outcome, RetryPolicy(), ran_seconds=0.1, jitter=0.5)
    hurt.proxy.cut_on_answer(b"INSERT INTO attempts")
    applied = await applying(hurt).submit(step, 5)
    assert hurt.proxy.answers_cut == 1
    assert applied is not None and (applied.status, applied.version) == (status, 3)
    assert hurt.rows("SELECT status, version, attempts FROM jobs") == [(status, 3, attempts)]
    assert hurt.rows("SELECT count(*) FROM attempts") == [(attempts,)]


async def test_the_headers_of_a_dead_letter_survive_a_lost_answer(hurt: Hurt) -> None:
    job = await _claimed(hurt)
    step = decide(job, Outcome(Verdict.REJECTED, "http_400", 400), RetryPolicy(), ran_seconds=0.1, jitter=0.5)
    hurt.proxy.cut_on_answer(b"INSERT INTO attempts")
    applied = await applying(hurt).submit(step, 5)
    assert applied is not None and applied.publish and applied.headers
    assert applied.headers["reason"] == "http_400"
    assert applied.headers["attempts"] == 1


# Postgres undoes a statement that fails, but not what it has drawn from a sequence: this counts the tries.
_FAILING = """
CREATE SEQUENCE tries;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM nextval('tries'); RAISE EXCEPTION 'a disk error' USING ERRCODE = '58030'; END $$;
CREATE TRIGGER failing BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.status = 'sent') EXECUTE FUNCTION fail()
"""


async def test_outcomes_outlast_an_error_of_postgres_that_no_rule_names(hurt: Hurt) -> None:
    jobs = [await _claimed(hurt) for _ in range(3)]
    hurt.rows(_FAILING)

    async def tries() -> int:
        return int(str(hurt.rows("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tries")[0][0]))

    applies = applying(hurt)
    steps = [decide(job, ACCEPTED, RetryPolicy(), ran_seconds=0.1, jitter=0.5) for job in jobs]
    waiting = [asyncio.create_task(applies.submit(step)) for step in steps]
    await eventually(tries, lambda count: count >= 2)
    hurt.rows("DROP TRIGGER failing ON jobs")
    applied = await asyncio.gather(*waiting)
    assert [step and step.status for step in applied] == [Status.SENT] * 3


async def test_one_bad_item_fails_alone(hurt: Hurt) -> None:
    batch = accepting(hurt)
    good, bad, other = message(), message(body="a NUL \0 in the middle"), message()
    answers = await asyncio.gather(*(batch.submit(m, 5) for m in (good, bad, other)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Accepted, BadData, Accepted]
    assert hurt.rows("SELECT count(*) FROM jobs") == [(2,)]


async def test_overlapping_batches_of_keys_make_one_job_each_and_do_not_deadlock(hurt: Hurt) -> None:
    def batch(keys: list[str]) -> list[NewJob]:
        return [replace(message(), key=IdempotencyKey("/messages", key, "the same")) for key in keys]

    shuffle, rounds, size = random.Random(1), 8, 300
    for turn in range(rounds):
        keys = [f"{turn}.{n}" for n in range(size)]
        answers = await asyncio.gather(*(hurt.ledger.accept(batch(shuffle.sample(keys, size)), 10) for _ in range(4)))
        assert len({answer.id for each in answers for answer in each if isinstance(answer, Accepted)}) == size
    assert hurt.rows("SELECT count(*) FROM jobs") == [(rounds * size,)]


async def test_overlapping_batches_of_three_processes_do_not_deadlock(hurt: Hurt) -> None:
    new = [message() for _ in range(300)]
    await hurt.ledger.accept(new, 5)
    ids = [str(each.id) for each in new]
    command = [sys.executable, "-m", "tests.integration.deadlock_worker", hurt.database]
    processes = [
        await asyncio.create_subprocess_exec(*command, str(seed), "40", *ids, stdout=subprocess.PIPE) for seed in range(3)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert [output for output, _ in outputs] == [b"0", b"0", b"0"], "deadlocks met by each process"
    ((versions,),) = hurt.rows("SELECT sum(version) FROM jobs")
    assert int(str(versions)) > 300 * 10  # they did get in each other's way


async def test_a_frozen_postgres_frees_the_caller_and_the_thread_at_the_deadline(hurt: Hurt) -> None:
    batch = accepting(hurt)
    await batch.submit(message(), 5)
    await hurt.proxy.freeze()
    took = []
    for _ in range(6):  # more often than the pool has threads: none may stay blocked for good
        started = time.monotonic()
        with pytest.raises((DeadlineExceeded, Unavailable)):
            await batch.submit(message(), 0.3)
        took.append(time.monotonic() - started)
    assert statistics.median(took) < 1.0  # the median: a busy machine may stall one of them
    await hurt.proxy.thaw()
    assert (await batch.submit(message(), 8)) is not None


async def test_a_connection_that_is_silent_for_ever_costs_its_thread_one_deadline(hurt: Hurt) -> None:
    pool = DatabasePool(with_port(hurt.database, hurt.proxy.port), name="one thread", threads=1)
    ledger = Ledger(pool, grace_seconds=5)
    await ledger.accept([message()], 5)
    hurt.proxy.forsake()
    with pytest.raises(Unavailable):
        await ledger.accept([message()], 0.3)
    await ledger.accept([message()], 5)
    pool.close()


async def test_contact_is_broken_by_an_outage_and_counts_anew(hurt: Hurt) -> None:
    await hurt.ledger.accept([message()], 5)
    before = hurt.pool.contact_seconds()
    assert before >= 0
    await hurt.proxy.refuse()
    with pytest.raises(Unavailable):
        await hurt.ledger.accept([message()], 1)
    assert hurt.pool.contact_seconds() == 0
    await hurt.proxy.accept()
    await hurt.ledger.accept([message()], 5)
    assert 0 < hurt.pool.contact_seconds() < 1
