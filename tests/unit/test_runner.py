"""The runner's pipeline on the fake ledger: acknowledge, nack, reject, release, retry."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar
from uuid import UUID

import pytest

from consumers import runner as runner_module
from consumers.modes import Concurrent, Exclusive, Quarantine, Renewer
from consumers.runner import Runner, Work
from consumers.slots import Slots
from infra.postgres.transitions.apply import Applied, LateAcceptance
from infra.postgres.transitions.claim import ClaimRequest
from jobs.lifecycle import Status
from jobs.model import REPORTS, Claimed, NewJob, Progress, Route, Transition
from jobs.outcome import RELEASED_AT_SHUTDOWN, Outcome, Verdict
from jobs.retry import RetryPolicy
from jobs.wire import Pointer, encode
from service.batching import Batcher
from service.publishing import EagerPublisher, Outgoing, outbox_deletes
from service.statuses import Statuses
from service.transitions import Recorder
from tests.support.factories import ACCEPTED, applied, as_lost, message, report, unclaimed
from tests.support.fakes import FakeCache, FakeLedger, FakeSwitch
from tests.support.waiting import until

T = TypeVar("T")

QUEUE, OTHER = "messages.sandbox.normal", "messages.other.normal"


@dataclass
class Delivery:
    """A delivery that records its settlement."""

    body: bytes
    queue: str = QUEUE
    settlements: list[str] = field(default_factory=list)

    async def ack(self) -> None:
        self.settlements.append("ack")

    async def reject(self) -> None:
        self.settlements.append("reject")

    async def nack(self) -> None:
        self.settlements.append("nack")


@dataclass
class Handler:
    """A handler with a fixed outcome that records its jobs."""

    answer: Callable[[], Awaitable[Outcome]]
    jobs: list[Claimed] = field(default_factory=list)

    async def __call__(self, job: Claimed, progress: Progress) -> Outcome:
        self.jobs.append(job)
        return await self.answer()


@dataclass
class Broker:
    connected: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, route: Route, queue: str, messages: Sequence[Outgoing]) -> Sequence[None]:
        return [None] * len(messages)


async def _accepted() -> Outcome:
    return ACCEPTED


@dataclass
class Bench:
    """A runner on fakes, with one handler for each of two queues."""

    ledger: FakeLedger
    cache: FakeCache
    handler: Handler
    runner: Runner
    switch: FakeSwitch
    concurrent: Concurrent
    statuses: dict[UUID, Status]
    transitions: list[Transition]
    late: list[LateAcceptance]

    async def deliver(self, delivery: Delivery) -> Delivery:
        self.runner.dispatch(delivery)
        await asyncio.gather(*self.runner._running)
        return delivery

    async def job(self, provider: str = "sandbox") -> Pointer:
        return await self.accept(message(provider=provider))

    async def accept(self, new: NewJob) -> Pointer:
        self.ledger.jobs[new.id], self.statuses[new.id] = unclaimed(new), Status.QUEUED
        return Pointer(new.id, 1)

    async def lose(self, pointer: Pointer) -> None:
        """Take the job back, as a reaper does after its lease."""
        await self.runner.recorder.record_lost(as_lost(self.ledger.jobs[pointer.id]), RetryPolicy())

    def status(self, pointer: Pointer) -> Status:
        return self.statuses[pointer.id]


def _bench(answer: Callable[[], Awaitable[Outcome]] = _accepted, lease: float = 60.0) -> Bench:
    ledger, cache, handler = FakeLedger(), FakeCache(), Handler(answer)

    statuses: dict[UUID, Status] = {}
    transitions: list[Transition] = []
    late_acceptances: list[LateAcceptance] = []

    async def delete(pointers: Sequence[Pointer], timeout: float) -> None:
        return

    async def apply(batch: Sequence[Transition], timeout: float) -> list[Applied | None]:
        transitions.extend(batch)
        results = await ledger.apply(batch)
        statuses.update({result.id: result.status for result in results if result is not None})
        return results

    async def accept_late(batch: Sequence[LateAcceptance], timeout: float) -> list[Applied | None]:
        late_acceptances.extend(batch)
        return [applied(ledger.jobs[late.id], Status.SENT) for late in batch]

    async def renew(job: Claimed, lease_seconds: float, progress: Progress, timeout: float) -> bool:
        return ledger.jobs[job.id].version == job.version

    recorder = Recorder(
        Batcher(apply),
        Batcher(accept_late),
        EagerPublisher(Broker(), outbox_deletes(delete), grace_seconds=5),
        Statuses(cache, _no_statuses),
        lost_leases=3,
    )
    switch, renewer = FakeSwitch(), Renewer(renew, lease)
    concurrent = Concurrent(renewer, 3)
    works = {
        queue: Work(worker, 10.0, RetryPolicy(), Slots(2), concurrent)
        for queue, worker in ((QUEUE, handler), (OTHER, Handler(_accepted)))
    }
    works[REPORTS.name] = Work(
        Handler(answer), 0.0, RetryPolicy(), Slots(1), Exclusive(renewer, switch), on_shutdown=RELEASED_AT_SHUTDOWN
    )
    claims = Batcher(ledger.claim, key=lambda r: (r.id, r.version), duplicate=lambda _: None)
    runner = Runner(works, claims, recorder, lease_seconds=lease, margin_seconds=5.0)
    return Bench(ledger, cache, handler, runner, switch, concurrent, statuses, transitions, late_acceptances)


async def _no_statuses(ids: object, timeout: float) -> list[None]:
    raise AssertionError("no test reads statuses from the ledger")


async def test_a_job_is_claimed_acknowledged_and_done() -> None:
    bench = _bench()
    pointer = await bench.job()
    delivery = await bench.deliver(Delivery(encode(pointer)))
    assert (delivery.settlements, bench.status(pointer)) == (["ack"], Status.SENT)
    assert bench.cache.values[pointer.id].status is Status.SENT


async def test_a_stale_copy_is_acknowledged_and_forgotten() -> None:
    bench = _bench()
    pointer = await bench.job()
    await bench.deliver(Delivery(encode(pointer)))
    copy = await bench.deliver(Delivery(encode(pointer)))
    assert (copy.settlements, len(bench.handler.jobs)) == (["ack"], 1)


async def test_undecodable_messages_are_rejected() -> None:
    bench = _bench()
    assert (await bench.deliver(Delivery(b"nonsense"))).settlements == ["reject"]


async def test_a_message_is_acknowledged_before_it_is_sent() -> None:
    order: list[str] = []
    delivery = Delivery(b"", settlements=order)

    async def answer() -> Outcome:
        order.append("send")
        return ACCEPTED

    bench = _bench(answer)
    delivery.body = encode(await bench.job())
    await bench.deliver(delivery)
    assert order == ["ack", "send"]


async def test_nothing_is_acknowledged_before_the_ledger_has_it() -> None:
    bench = _bench()
    claim, claiming, answer = bench.ledger.claim, asyncio.Event(), asyncio.Event()

    async def slowly(requests: Sequence[ClaimRequest], timeout: float) -> list[Claimed | None]:
        claiming.set()
        await answer.wait()
        return await claim(requests, timeout)

    bench.runner.claims = Batcher(slowly)
    delivery = Delivery(encode(await bench.job()))
    bench.runner.dispatch(delivery)
    await claiming.wait()
    assert delivery.settlements == []
    answer.set()
    await asyncio.gather(*bench.runner._running)
    assert delivery.settlements == ["ack"]


async def test_a_delivery_whose_claim_fails_is_requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "CLAIM_RETRY_SECONDS", 0.0)
    bench = _bench()

    async def fail(requests: Sequence[ClaimRequest], timeout: float) -> list[Claimed | None]:
        raise ZeroDivisionError

    bench.runner.claims = Batcher(fail)
    delivery = await bench.deliver(Delivery(encode(await bench.job())))
    assert (delivery.settlements, bench.handler.jobs) == (["nack"], [])


async def test_a_send_that_cannot_end_within_the_lease_is_not_begun() -> None:
    bench = _bench(lease=12.0)  # 10 s timeout + 5 s margin
    pointer = await bench.job()
    await bench.deliver(Delivery(encode(pointer)))
    assert (bench.handler.jobs, bench.status(pointer)) == ([], Status.QUEUED)
    assert [transition.attempt for transition in bench.transitions] == [None]


async def test_a_send_whose_claim_the_workers_lock_does_not_cover_is_not_begun() -> None:
    bench = _bench()
    bench.runner.is_locked = lambda claimed_at: False
    pointer = await bench.job()
    await bench.deliver(Delivery(encode(pointer)))
    assert (bench.handler.jobs, bench.status(pointer)) == ([], Status.QUEUED)
    bench.runner.is_locked = lambda claimed_at: claimed_at <= time.monotonic()
    await bench.deliver(Delivery(encode(Pointer(pointer.id, 3))))
    assert bench.status(pointer) is Status.SENT


async def test_the_jobs_provider_wins_over_the_queue_it_came_from() -> None:
    bench = _bench()
    pointer = await bench.job(provider="other")
    await bench.deliver(Delivery(encode(pointer), QUEUE))
    assert (bench.handler.jobs, bench.status(pointer)) == ([], Status.QUEUED)
    assert [transition.queue for transition in bench.transitions] == [OTHER]


async def test_a_handler_that_crashes_is_an_unknown_outcome() -> None:
    async def answer() -> Outcome:
        raise ZeroDivisionError

    bench = _bench(answer)
    pointer = await bench.job()
    await bench.deliver(Delivery(encode(pointer)))
    assert bench.status(pointer) is Status.RETRYING
    assert [transition.attempt and transition.attempt.charged for transition in bench.transitions] == [True]


async def test_after_stop_deliveries_are_nacked() -> None:
    bench = _bench()
    await bench.runner.stop(0)
    pointer = await bench.job()
    delivery = await bench.deliver(Delivery(encode(pointer)))
    assert (delivery.settlements, bench.status(pointer)) == (["nack"], Status.QUEUED)


async def test_a_send_cut_by_the_grace_is_an_unknown_outcome() -> None:
    sending = asyncio.Event()

    async def answer() -> Outcome:
        sending.set()
        await asyncio.Event().wait()
        return Outcome(Verdict.ACCEPTED)

    bench = _bench(answer)
    pointer = await bench.job()
    bench.runner.dispatch(Delivery(encode(pointer)))
    await sending.wait()
    started = time.monotonic()
    await bench.runner.stop(0.05)
    assert time.monotonic() - started < 4  # the margin that recording may take is five
    assert bench.status(pointer) is Status.RETRYING


async def test_while_a_report_runs_nothing_more_is_taken_from_its_queue() -> None:
    bench = _bench()
    pointer = await bench.accept(report())
    delivery = await bench.deliver(Delivery(encode(pointer), REPORTS.name, bench.switch.calls))
    assert delivery.settlements == ["pause reports", "ack", "resume reports"]
    assert bench.status(pointer) is Status.COMPLETED


async def test_a_report_that_is_not_ours_lets_the_next_one_come() -> None:
    bench = _bench()
    pointer = await bench.accept(report())
    await bench.deliver(Delivery(encode(Pointer(pointer.id, 7)), REPORTS.name))
    assert bench.switch.calls == ["pause reports", "resume reports"]


async def test_a_report_cut_by_the_grace_is_released_to_another_worker_uncharged() -> None:
    sending = asyncio.Event()

    async def answer() -> Outcome:
        sending.set()
        await asyncio.Event().wait()
        return ACCEPTED

    bench = _bench(answer)
    pointer = await bench.accept(report())
    bench.runner.dispatch(Delivery(encode(pointer), REPORTS.name))
    await sending.wait()
    await bench.runner.stop(0.05)
    assert bench.status(pointer) is Status.QUEUED
    assert [transition.attempt for transition in bench.transitions] == [None]


async def test_a_report_whose_job_was_taken_from_us_is_cancelled_and_records_nothing() -> None:
    sending = asyncio.Event()

    async def answer() -> Outcome:
        sending.set()
        await asyncio.Event().wait()
        return ACCEPTED

    bench = _bench(answer)
    bench.runner.lease_seconds, bench.runner.margin_seconds = 0.4, 0.01
    pointer = await bench.accept(report())
    bench.runner.dispatch(Delivery(encode(pointer), REPORTS.name))
    await sending.wait()
    await bench.lose(pointer)
    await asyncio.gather(*bench.runner._running)
    assert (bench.status(pointer), bench.ledger.jobs[pointer.id].version) == (Status.RETRYING, 3)


async def test_only_an_acceptance_is_recorded_after_the_lease() -> None:
    for outcome, late_count in ((ACCEPTED, 1), (Outcome(Verdict.REJECTED, "http_400", 400), 0)):
        sending, answer_now = asyncio.Event(), asyncio.Event()

        async def answer(
            outcome: Outcome = outcome, sending: asyncio.Event = sending, answer_now: asyncio.Event = answer_now
        ) -> Outcome:
            sending.set()
            await answer_now.wait()
            return outcome

        bench = _bench(answer)
        pointer = await bench.job()
        bench.runner.dispatch(Delivery(encode(pointer)))
        await sending.wait()
        (job,) = bench.handler.jobs
        await bench.lose(pointer)
        answer_now.set()
        await asyncio.gather(*bench.runner._running)
        assert bench.late == [LateAcceptance(job.id, job.token, 200, None)] * late_count


async def test_a_job_that_may_have_killed_workers_is_tried_alone() -> None:
    release = {name: asyncio.Event() for name in ("first", "suspect", "last")}
    starts: list[str] = []

    async def answer() -> Outcome:
        name = str(bench.handler.jobs[-1].body)
        starts.append(name)
        await release[name].wait()
        return ACCEPTED

    bench = _bench(answer)
    bench.runner.works = {**bench.runner.works, QUEUE: replace(bench.runner.works[QUEUE], slots=Slots(3))}
    bench.concurrent.quarantine = Quarantine(60)
    pointers = {name: await bench.accept(message(body=name)) for name in release}
    suspect = pointers["suspect"].id
    bench.ledger.jobs[suspect] = replace(bench.ledger.jobs[suspect], lost_leases=2)
    for step, name in enumerate(release, 1):
        bench.runner.dispatch(Delivery(encode(pointers[name])))
        await until(lambda: [job.version for job in bench.ledger.jobs.values()].count(2), min(step, 2).__eq__)
    assert starts == ["first"]
    release["first"].set()
    await until(lambda: list(starts), lambda names: names == ["first", "suspect"])
    release["suspect"].set()
    await until(lambda: list(starts), lambda names: names == ["first", "suspect", "last"])
    release["last"].set()
    await asyncio.gather(*bench.runner._running)
    assert {bench.status(pointer) for pointer in pointers.values()} == {Status.SENT}
