"""Jobs, claims and outcomes for tests."""

from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import uuid_utils

from infra.postgres.transitions.apply import Applied
from infra.postgres.transitions.claim import ClaimRequest
from infra.rabbitmq.publisher import Publisher
from jobs.lifecycle import Status
from jobs.model import REPORTS, Claimed, Delivery, LostLease, NewJob, Route, WorkQueue, message_queue
from jobs.outcome import Outcome, Verdict
from jobs.wire import Pointer

ACCEPTED = Outcome(Verdict.ACCEPTED, None, 200)


def new_id() -> UUID:
    return UUID(int=uuid_utils.uuid7().int)


def message(
    destination: str = "+1", body: str = "hello", provider: str = "sandbox", delivery: Delivery = Delivery.AT_LEAST_ONCE
) -> NewJob:
    return NewJob(new_id(), "default", message_queue(provider), destination, body, delivery)


def report() -> NewJob:
    return NewJob(new_id(), "default", REPORTS)


def claim_request(id_: UUID, version: int = 1, lease: float = 60.0) -> ClaimRequest:
    return ClaimRequest(id_, version, uuid4(), lease)


SANDBOX = message_queue("sandbox")


def claimed(
    attempts: int = 0,
    age: float = 0.0,
    revision: int = 0,
    lost: int = 0,
    queue: WorkQueue = SANDBOX,
    delivery: Delivery = Delivery.AT_LEAST_ONCE,
) -> Claimed:
    return Claimed(
        id=new_id(),
        version=2,
        token=uuid4(),
        revision=revision,
        client_id="default",
        queue=queue,
        destination="+1",
        body="hello",
        delivery=delivery,
        key_revision=revision,
        attempts=attempts,
        tries=attempts,
        lost_leases=lost,
        age_seconds=age,
    )


def unclaimed(job: NewJob) -> Claimed:
    """The stored fields of an accepted job, before its first claim."""
    stored = claimed(queue=job.queue, delivery=job.delivery)
    return replace(stored, id=job.id, version=1, destination=job.destination, body=job.body)


def applied(job: Claimed, status: Status) -> Applied:
    return Applied(job.id, job.version, status, job.queue.kind, job.client_id, False, None)


def as_lost(job: Claimed) -> LostLease:
    return LostLease(job.id, job.version, job.token, job.queue, job.delivery, job.lost_leases)


@dataclass(frozen=True)
class Outbound:
    """A message to publish."""

    pointer: Pointer
    headers: dict[str, str | int] | None = None
    traceparent: str | None = None


async def publish_one(publisher: Publisher, pointer: Pointer, route: Route, queue: str) -> None:
    """Publish one message. Raises NotPublished."""
    (error,) = await publisher.publish(route, queue, [Outbound(pointer)])
    if error is not None:
        raise error
