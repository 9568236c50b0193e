"""The account: the invariants, checked against the evidence of a run. Pure, so that a test can violate each."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

from jobs.lifecycle import ENDS, TRANSITIONS, Cause, Status
from tests.chaos.evidence import Evidence, Fault, Observation, Request, Step

SLACK = 1.0  # seconds by which trigger, client and provider may disagree about an instant

Check = Callable[[Evidence], Iterator[str]]


def every_job_ends(evidence: Evidence) -> Iterator[str]:
    last = {step.job: step for step in evidence.steps}
    for key, ids in evidence.ids_by_key.items():
        for id_ in ids:
            if id_ not in last:
                yield f"{id_} (key {key}) was accepted and is not in the ledger"
            elif Status(last[id_].status) not in ENDS:
                yield f"{id_} is {last[id_].status} at version {last[id_].version}"


def every_job_was_accepted(evidence: Evidence) -> Iterator[str]:
    accepted = {id_ for ids in evidence.ids_by_key.values() for id_ in ids}
    for id_ in {evidence.parents.get(step.job, step.job) for step in evidence.steps} - accepted:
        yield f"{id_} is in the ledger, and no 202 named it"
    for request in evidence.requests:
        if request.key[:36] not in accepted:
            yield f"the provider received {request.key}, and no 202 named it"


def one_key_one_job(evidence: Evidence) -> Iterator[str]:
    for key, ids in evidence.ids_by_key.items():
        if len(ids) > 1:
            yield f"key {key} made {len(ids)} jobs: {sorted(ids)}"
    yield from evidence.unexpected_answers


def versions_follow_the_table(evidence: Evidence) -> Iterator[str]:
    # No fault run moves jobs between providers.
    edges = {(edge.source.value, edge.target.value) for edge in TRANSITIONS if edge.cause is not Cause.MOVE}
    for id_, steps in by_job(evidence).items():
        if [step.version for step in steps] != list(range(1, len(steps) + 1)):
            yield f"{id_} went through the versions {[step.version for step in steps]}"
        for before, after in pairwise(steps):
            if (before.status, after.status) not in edges or after.previous != before.status:
                yield f"{id_} went from {after.previous} (seen: {before.status}) to {after.status} at version {after.version}"


def nothing_remains(evidence: Evidence) -> Iterator[str]:
    for name, count in evidence.remaining.items():
        if count:
            yield f"{name}: {count}"


def attempts_within_the_limit(evidence: Evidence) -> Iterator[str]:
    charged: dict[tuple[str, int], int] = defaultdict(int)
    for attempt in evidence.attempts:
        charged[attempt.job, attempt.revision] += attempt.charged
    for (id_, revision), count in charged.items():
        limit = evidence.max_callback_attempts if id_ in evidence.parents else evidence.max_attempts
        if count > limit:
            yield f"{id_} was charged {count} attempts in revision {revision}, the limit is {limit}"
    for key, requests in _by_key(evidence).items():
        limit = evidence.max_attempts
        if len(requests) > limit:
            lost = sum(a.job == key[:36] and not a.charged for a in evidence.attempts)
            if len(requests) > limit + lost:
                yield f"{key} reached the provider {len(requests)} times: {limit} attempts and {lost} lost ones"


def duplicates_have_causes(evidence: Evidence) -> Iterator[str]:
    """A bad answer or a fault causes a second request. The ledger must hold the attempt, the log of faults the fault."""
    attempts = defaultdict(list)
    for attempt in evidence.attempts:
        attempts[attempt.job].append(attempt)
    for key, requests in _by_key(evidence).items():
        for first, second in pairwise(requests):
            if first.answer not in (200, None) or first.answered_at - first.at > evidence.slow_after:
                continue  # a refusal, reset, hang or slow answer is retried
            between = [
                a for a in attempts[key[:36]] if first.at - SLACK <= a.ended_at <= second.at + SLACK and a.outcome != "accepted"
            ]
            if not between:
                yield f"{key} was sent at {first.at:.3f} and {second.at:.3f}, and the ledger has no attempt between them"
            elif not any(
                fault.duplicates_requests and _overlaps(fault, first, second, evidence.lease_seconds)
                for fault in evidence.faults
            ):
                reasons = ", ".join(f"{a.outcome} {a.reason}" for a in between)
                yield f"{key} was sent at {first.at:.3f} and {second.at:.3f} ({reasons}), and no fault explains it"


def at_most_once(evidence: Evidence) -> Iterator[str]:
    for key, requests in _by_key(evidence).items():
        if key[:36] in evidence.at_most_once and len(requests) > 1:
            yield f"{key} reached the provider {len(requests)} times"


def every_final_status_has_a_callback(evidence: Evidence) -> Iterator[str]:
    """At least one callback, under one id, signed; no callback reports a status that the job never had."""
    ends = {
        (step.job, step.version): f"{evidence.jobs_with_callback[step.job]}.{step.status}"
        for step in evidence.steps
        if step.job in evidence.jobs_with_callback and Status(step.status) in ENDS
    }
    arrived: dict[tuple[str, int], set[str]] = defaultdict(set)
    for callback in evidence.callbacks:
        end = (callback.job, callback.sequence)
        if not callback.verified:
            yield f"the receiver got {callback.id}, and the reference verifier rejects it"
        elif ends.get(end) != callback.type:
            yield f"{callback.job} has a callback {callback.type} for version {callback.sequence}, which was {ends.get(end)}"
        elif callback.answer == 204:
            arrived[end].add(callback.id)
    for (id_, version), type_ in ends.items():
        if not arrived[id_, version]:
            yield f"{id_} was {type_} at version {version}, and no callback arrived"
        elif len(arrived[id_, version]) > 1:
            yield f"{id_} was {type_} at version {version}, and its callbacks have {len(arrived[id_, version])} ids"


def only_lost_messages_are_republished(evidence: Evidence) -> Iterator[str]:
    """The sweep republishes a confirmed message only after a fault that loses messages, or a fault that delays it.

    The sweep cannot tell a late message from a lost one, and a copy is harmless.
    """
    reached = {(step.job, step.version): step.at for step in evidence.steps}
    losses = [fault for fault in evidence.faults if fault.loses_messages]
    for id_, version, at in evidence.republications:
        since = reached.get((id_, version), at)
        lost = any(loss.started_at <= at and since <= loss.ended_at + SLACK for loss in losses)
        if not lost and at - since - _fault_seconds(evidence.faults, since, at) > evidence.sweep_after_seconds / 2:
            yield f"{id_}, at version {version} since {since:.3f}, was republished at {at:.3f} though no fault lost messages"


def cached_versions_rise(evidence: Evidence) -> Iterator[str]:
    cached: dict[str, tuple[int, float]] = {}
    for write in evidence.cache_writes:
        if write.job is None:
            cached.clear()
            continue
        version, until = cached.get(write.job, (0, 0.0))
        if write.version < version and write.at < until:
            yield f"{write.job} was cached at version {version}, then at {write.version}"
        cached[write.job] = (write.version, write.at + write.milliseconds / 1000)


def staleness_is_bounded(evidence: Evidence) -> Iterator[str]:
    steps = by_job(evidence)
    stalls = [fault for fault in evidence.faults if fault.delays_visibility]
    for read in evidence.observations:
        stale_seconds = staleness(read, steps.get(read.job, []))
        excuse = sum(
            f.ended_at - f.started_at
            for f in stalls
            if f.started_at <= read.answered_at and read.requested_at <= f.ended_at + evidence.max_staleness
        )
        if stale_seconds is None:
            yield f"{read.job} was read as {read.status}, a status that it had not had"
        elif stale_seconds > evidence.max_staleness + SLACK + excuse:
            yield f"{read.job} was read as {read.status} {stale_seconds:.1f} s after that status ended"


def all_faults_were_injected(evidence: Evidence) -> Iterator[str]:
    yield from evidence.failed_injections


def processes_end_by_signals(evidence: Evidence) -> Iterator[str]:
    yield from evidence.unexpected_exits


INVARIANTS: dict[str, Check] = {
    "every accepted job ends, in one state": every_job_ends,
    "nothing ends that was not accepted": every_job_was_accepted,
    "one idempotency key makes one job": one_key_one_job,
    "versions rise one by one, by transitions of the table": versions_follow_the_table,
    "outbox, work queues and leases are empty": nothing_remains,
    "attempts stay within the limit": attempts_within_the_limit,
    "a duplicate request has a cause": duplicates_have_causes,
    "at_most_once reaches the provider at most once": at_most_once,
    "every final status produces a callback": every_final_status_has_a_callback,
    "only what the broker lost is published again": only_lost_messages_are_republished,
    "the cache never goes back to an older version": cached_versions_rise,
    "a status is wrong no longer than promised": staleness_is_bounded,
    "processes end only by a signal": processes_end_by_signals,
    "every fault could be injected": all_faults_were_injected,
}


def violations(evidence: Evidence) -> dict[str, list[str]]:
    """The violations of each invariant; empty if all hold."""
    found = {name: list(check(evidence)) for name, check in INVARIANTS.items()}
    return {name: lines for name, lines in found.items() if lines}


def staleness(read: Observation, steps: list[Step]) -> float | None:
    """Seconds between the end of the observed status and the request; None if the job never had this status."""
    ends = [after.at for after in steps[1:]] + [float("inf")]
    over = [
        end
        for step, end in zip(steps, ends, strict=False)
        if step.status == read.status and step.at <= read.answered_at + SLACK
    ]
    return max(0.0, read.requested_at - max(over)) if over else None


def _fault_seconds(faults: list[Fault], started_at: float, ended: float) -> float:
    """Seconds of an interval that faults cover, plus a second after each."""
    total, reached = 0.0, started_at
    for fault in sorted(faults, key=lambda fault: fault.started_at):
        start, end = max(fault.started_at, reached), min(fault.ended_at + SLACK, ended)
        total += max(0.0, end - start)
        reached = max(reached, end)
    return total


def _overlaps(fault: Fault, first: Request, second: Request, lease: float) -> bool:
    """Whether a fault may have hidden an outcome: it overlaps the two requests, within one lease."""
    return fault.started_at <= second.at and fault.ended_at + lease >= first.at


def by_job(evidence: Evidence) -> dict[str, list[Step]]:
    """The steps of each job, in order of their versions."""
    found: dict[str, list[Step]] = defaultdict(list)
    for step in sorted(evidence.steps, key=lambda step: (step.version, step.at)):
        found[step.job].append(step)
    return found


def _by_key(evidence: Evidence) -> dict[str, list[Request]]:
    found: dict[str, list[Request]] = defaultdict(list)
    for request in evidence.requests:
        found[request.key].append(request)
    return found
