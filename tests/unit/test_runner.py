"""The runner's pipeline on the fake ledger: acknowledge, nack, reject, release, retry."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest

from consumers import runner as runner_module
from consumers.modes import Concurrent, Exclusive
from consumers.quarantine import Quarantine
from consumers.renewer import Renewer
from consumers.runner import Lease, Runner, Work
from consumers.slots import Slots
from infra.postgres.transitions.claim import ClaimRequest
from jobs.decision import decide_lost
from jobs.lifecycle import Status
from jobs.model import REPORTS, Claimed, NewJob, Progress, Route
from jobs.outcome import RELEASED_AT_SHUTDOWN, Outcome, Verdict
from jobs.retry import RetryPolicy
from jobs.wire import Pointer, encode
from service.announcing import Announcer
from service.batching import Batcher
from service.publishing import EagerPublisher
from service.recording import Recorder
from service.statuses import Statuses
from tests.support.factories import ACCEPTED, as_lost, claim_request, message, report
from tests.support.fakes import FakeCache, FakeLedger
from tests.support.waiting import eventually

T = TypeVar("T")

QUEUE, OTHER = "messages.sandbox.normal", "messages.other.normal"


@dataclass
class Delivery:
    """A delivery that records its settlement."""

    body: bytes
    queue: str = QUEUE
    settled: list[str] = field(default_factory=list)

    async def ack(self) -> None:
        self.settled.append("ack")

    async def reject(self) -> None:
        self.settled.append("reject")

    async def nack(self) -> None:
        self.settled.append("nack")


@dataclass
class Handler:
    """A handler with a fixed outcome that records its jobs."""

    answer: Callable[[], Awaitable[Outcome]]
    timeout_seconds: float = 10.0
    given: list[Claimed] = field(default_factory=list)

    async def __call__(self, job: Claimed, progress: Progress) -> Outcome:
        self.given.append(job)
        return await self.answer()


@dataclass
class Broker:
    connected: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, pointer: Pointer, route: Route, queue: str, headers: dict[str, str | int] | None = None) -> None:
        return


async def _accepted() -> Outcome:
    return ACCEPTED


@dataclass
class Switch:
    """Records calls."""

    told: list[str] = field(default_factory=list)

    async def pause(self, queue: str) -> None:
        self.told.append(f"pause {queue}")

    async def resume(self, queue: str) -> None:
        self.told.append(f"resume {queue}")


@dataclass
class Bench:
    """A runner on fakes, with one handler for each of two queues."""

    ledger: FakeLedger
    cache: FakeCache
    handler: Handler
    runner: Runner
    switch: Switch
    concurrent: Concurrent

    async def deliver(self, delivery: Delivery) -> Delivery:
        self.runner.dispatch(delivery)
        await asyncio.gather(*self.runner._running)
        return delivery

    async def job(self, provider: str = "sandbox") -> Pointer:
        return await self.accept(message(provider=provider))

    async def accept(self, new: NewJob) -> Pointer:
        await self.ledger.accept([new])
        return Pointer(new.id, 1)

    def status(self, pointer: Pointer) -> Status:
        return self.ledger.statuses[pointer.id]


def _bench(answer: Callable[[], Awaitable[Outcome]] = _accepted, lease: float = 60.0) -> Bench:
    ledger, cache, handler = FakeLedger(), FakeCache(), Handler(answer)

    async def forget(pointer: Pointer) -> None:
        return

    recorder = Recorder(
        Batcher(ledger.apply),
        Batcher(ledger.accept_late),
        Announcer(EagerPublisher(Broker(), forget), Statuses(cache, _unasked), grace_seconds=5),
        lost_leases=3,
    )
    switch, renewer = Switch(), Renewer(ledger, lease)
    concurrent = Concurrent(renewer, 3)
    works = {
        queue: Work(worker, RetryPolicy(), Slots(2), concurrent)
        for queue, worker in ((QUEUE, handler), (OTHER, Handler(_accepted)))
    }
    works[REPORTS.name] = Work(
        Handler(answer, 0.0), RetryPolicy(), Slots(1), Exclusive(renewer, switch), on_shutdown=RELEASED_AT_SHUTDOWN
    )
    claims = Batcher(ledger.claim, key=lambda r: (r.id, r.version), duplicate=lambda _: None)
    runner = Runner(works, claims, recorder, Lease(lease, 5.0))
    return Bench(ledger, cache, handler, runner, switch, concurrent)


async def _unasked(ids: object, timeout: float) -> list[None]:
    raise AssertionError("the ledger is not asked for statuses here")


async def test_a_job_is_claimed_acknowledged_and_done() -> None:
    bench = _bench()
    pointer = await bench.job()
    delivery = await bench.deliver(Delivery(encode(pointer)))
    assert (delivery.settled, bench.status(pointer)) == (["ack"], Status.SENT)
    assert bench.cache.values[pointer.id].status is Status.SENT


async def test_a_stale_copy_is_acknowledged_and_forgotten() -> None:
    bench = _bench()
    pointer = await bench.job()
    await bench.deliver(Delivery(encode(pointer)))
    copy = await bench.deliver(Delivery(encode(pointer)))
    assert (copy.settled, len(bench.handler.given)) == (["ack"], 1)


async def test_undecodable_messages_are_rejected() -> None:
    bench = _bench()
    assert (await bench.deliver(Delivery(b"nonsense"))).settled == ["reject"]


async def test_a_message_is_acknowledged_before_it_is_sent() -> None:
    order: list[str] = []
    delivery = Delivery(b"", settled=order)

    async def answer() -> Outcome:
        order.append("send")
        return ACCEPTED

    bench = _bench(answer)
    delivery.body = encode(await bench.job())
    await bench.deliver(delivery)
    assert order == ["ack", "send"]


async def test_nothing_is_acknowledged_before_the_ledger_has_it() -> None:
    bench = _bench()
    claim, asked, answer = bench.ledger.claim, asyncio.Event(), asyncio.Event()

    async def slowly(requests: Sequence[ClaimRequest], timeout: float) -> list[Claimed | None]:
        asked.set()
        await answer.wait()
        return await claim(requests, timeout)

    bench.runner._claims = Batcher(slowly)
    delivery = Delivery(encode(await bench.job()))
    bench.runner.dispatch(delivery)
    await asked.wait()
    assert delivery.settled == []
    answer.set()
    await asyncio.gather(*bench.runner._running)
    assert delivery.settled == ["ack"]


async def test_a_delivery_whose_claim_fails_is_requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "CLAIM_RETRY_SECONDS", 0.0)
    bench = _bench()

    async def fail(requests: Sequence[ClaimRequest], timeout: float) -> list[Claimed | None]:
        raise ZeroDivisionError

    bench.runner._claims = Batcher(fail)
    delivery = await bench.deliver(Delivery(encode(await bench.job())))
    assert (delivery.settled, bench.handler.given) == (["nack"], [])


async def test_a_send_that_cannot_end_within_the_lease_is_not_begun() -> None:
    bench = _bench(lease=12.0)  # 10 s timeout + 5 s margin
    pointer = await bench.job()
    await bench.deliver(Delivery(encode(pointer)))
    assert (bench.handler.given, bench.status(pointer)) == ([], Status.QUEUED)
    assert bench.ledger.jobs[pointer.id].attempts == 0


async def test_the_jobs_provider_wins_over_the_queue_it_came_from() -> None:
    bench = _bench()
    pointer = await bench.job(provider="other")
    await bench.deliver(Delivery(encode(pointer), QUEUE))
    assert (bench.handler.given, bench.status(pointer)) == ([], Status.QUEUED)
    assert bench.ledger.outbox[Pointer(pointer.id, 3)] == OTHER


async def test_a_handler_that_crashes_is_an_unknown_outcome() -> None:
    async def answer() -> Outcome:
        raise ZeroDivisionError

    bench = _bench(answer)
    pointer = await bench.job()
    await bench.deliver(Delivery(encode(pointer)))
    assert bench.status(pointer) is Status.RETRYING
    assert bench.ledger.jobs[pointer.id].attempts == 1


async def test_after_stop_deliveries_are_nacked() -> None:
    bench = _bench()
    await bench.runner.stop(0)
    pointer = await bench.job()
    delivery = await bench.deliver(Delivery(encode(pointer)))
    assert (delivery.settled, bench.status(pointer)) == (["nack"], Status.QUEUED)


async def test_a_send_cut_by_the_grace_is_an_unknown_outcome() -> None:
    begun = asyncio.Event()

    async def answer() -> Outcome:
        begun.set()
        await asyncio.Event().wait()
        return Outcome(Verdict.ACCEPTED)

    bench = _bench(answer)
    pointer = await bench.job()
    bench.runner.dispatch(Delivery(encode(pointer)))
    await begun.wait()
    started = time.monotonic()
    await bench.runner.stop(0.05)
    assert time.monotonic() - started < 4  # the margin that recording may take is five
    assert bench.status(pointer) is Status.RETRYING


async def test_while_a_report_runs_nothing_more_is_taken_from_its_queue() -> None:
    bench = _bench()
    pointer = await bench.accept(report())
    delivery = await bench.deliver(Delivery(encode(pointer), REPORTS.name, bench.switch.told))
    assert delivery.settled == ["pause reports", "ack", "resume reports"]
    assert bench.status(pointer) is Status.COMPLETED


async def test_a_report_that_is_not_ours_lets_the_next_one_come() -> None:
    bench = _bench()
    pointer = await bench.accept(report())
    await bench.deliver(Delivery(encode(Pointer(pointer.id, 7)), REPORTS.name))
    assert bench.switch.told == ["pause reports", "resume reports"]


async def test_a_report_cut_by_the_grace_is_released_to_another_worker_uncharged() -> None:
    begun = asyncio.Event()

    async def answer() -> Outcome:
        begun.set()
        await asyncio.Event().wait()
        return ACCEPTED

    bench = _bench(answer)
    pointer = await bench.accept(report())
    bench.runner.dispatch(Delivery(encode(pointer), REPORTS.name))
    await begun.wait()
    await bench.runner.stop(0.05)
    assert bench.status(pointer) is Status.QUEUED
    assert (bench.ledger.jobs[pointer.id].attempts, bench.ledger.jobs[pointer.id].tries) == (0, 0)


async def test_a_report_whose_job_was_taken_from_us_is_cancelled_and_records_nothing() -> None:
    begun = asyncio.Event()

    async def answer() -> Outcome:
        begun.set()
        await asyncio.Event().wait()
        return ACCEPTED

    bench = _bench(answer)
    bench.runner._lease = Lease(0.4, 0.01)
    pointer = await bench.accept(report())
    bench.runner.dispatch(Delivery(encode(pointer), REPORTS.name))
    await begun.wait()
    (job,) = bench.ledger.jobs.values()
    bench.ledger.clock += 100
    await bench.ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0)])
    await asyncio.gather(*bench.runner._running)
    assert bench.status(pointer) is Status.RETRYING
    assert bench.ledger.jobs[pointer.id].attempts == 0


async def test_a_late_acceptance_is_recorded_unless_the_job_was_claimed_again() -> None:
    for claimed_again, status in ((False, Status.SENT), (True, Status.PROCESSING)):
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def answer(begun: asyncio.Event = begun, go_on: asyncio.Event = go_on) -> Outcome:
            begun.set()
            await go_on.wait()
            return ACCEPTED

        bench = _bench(answer)
        pointer = await bench.job()
        bench.runner.dispatch(Delivery(encode(pointer)))
        await begun.wait()
        (job,) = bench.ledger.jobs.values()
        bench.ledger.clock += 100
        (lost,) = await bench.ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0)])
        assert lost is not None and lost.status is Status.RETRYING
        if claimed_again:
            await bench.ledger.claim([claim_request(job.id, lost.version)])
        go_on.set()
        await asyncio.gather(*bench.runner._running)
        assert bench.status(pointer) is status


async def test_a_job_that_may_have_killed_workers_is_tried_alone() -> None:
    let_go = {name: asyncio.Event() for name in ("first", "suspect", "last")}
    begun: list[str] = []

    async def answer() -> Outcome:
        name = str(bench.handler.given[-1].body)
        begun.append(name)
        await let_go[name].wait()
        return ACCEPTED

    bench = _bench(answer)
    bench.runner._works = {**bench.runner._works, QUEUE: replace(bench.runner._works[QUEUE], slots=Slots(3))}
    bench.concurrent._quarantine = Quarantine(60)
    pointers = {name: await bench.accept(message(body=name)) for name in let_go}
    suspect = pointers["suspect"].id
    bench.ledger.jobs[suspect] = replace(bench.ledger.jobs[suspect], lost_leases=2)
    for step, name in enumerate(let_go, 1):
        bench.runner.dispatch(Delivery(encode(pointers[name])))
        await eventually(_seen(lambda: list(bench.ledger.statuses.values()).count(Status.PROCESSING)), min(step, 2).__eq__)
    assert begun == ["first"]
    let_go["first"].set()
    await eventually(_seen(lambda: list(begun)), lambda seen: seen == ["first", "suspect"])
    let_go["suspect"].set()
    await eventually(_seen(lambda: list(begun)), lambda seen: seen == ["first", "suspect", "last"])
    let_go["last"].set()
    await asyncio.gather(*bench.runner._running)
    assert {bench.status(pointer) for pointer in pointers.values()} == {Status.SENT}


def _seen(look: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    async def seen() -> T:
        return look()

    return seen
