"""The account: which invariants hold of a run's evidence. Pure, so that a test can show each to fail."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

from jobs.lifecycle import ENDS, TRANSITIONS, Cause, Status
from tests.chaos.evidence import Evidence, Fault, Observation, Request, Step

SLACK = 1.0  # seconds between what a trigger, a client or the provider sees of one moment

Check = Callable[[Evidence], Iterator[str]]


def every_job_ends(evidence: Evidence) -> Iterator[str]:
    last = {step.job: step for step in evidence.steps}
    for key, ids in evidence.accepted.items():
        for id_ in ids:
            if id_ not in last:
                yield f"{id_} (key {key}) was accepted and is not in the ledger"
            elif Status(last[id_].status) not in ENDS:
                yield f"{id_} is {last[id_].status} at version {last[id_].version}"


def nothing_unaccepted(evidence: Evidence) -> Iterator[str]:
    told = {id_ for ids in evidence.accepted.values() for id_ in ids}
    for id_ in {evidence.parents.get(step.job, step.job) for step in evidence.steps} - told:
        yield f"{id_} is in the ledger, and no client was told of it"
    for request in evidence.requests:
        if request.key[:36] not in told:
            yield f"the provider got {request.key}, of which no client was told"


def one_key_one_job(evidence: Evidence) -> Iterator[str]:
    for key, ids in evidence.accepted.items():
        if len(ids) > 1:
            yield f"key {key} made {len(ids)} jobs: {sorted(ids)}"
    yield from evidence.refused


def by_the_table(evidence: Evidence) -> Iterator[str]:
    # No fault run moves jobs between providers.
    edges = {(edge.source.value, edge.target.value) for edge in TRANSITIONS if edge.cause is not Cause.MOVE}
    for id_, steps in by_job(evidence).items():
        if [step.version for step in steps] != list(range(1, len(steps) + 1)):
            yield f"{id_} went through the versions {[step.version for step in steps]}"
        for before, after in pairwise(steps):
            if (before.status, after.status) not in edges or after.was != before.status:
                yield f"{id_} went from {after.was} (seen: {before.status}) to {after.status} at version {after.version}"


def all_empty(evidence: Evidence) -> Iterator[str]:
    for what, count in evidence.left.items():
        if count:
            yield f"{what}: {count}"


def within_the_limit(evidence: Evidence) -> Iterator[str]:
    charged: dict[tuple[str, int], int] = defaultdict(int)
    for attempt in evidence.attempts:
        charged[attempt.job, attempt.revision] += attempt.charged
    for (id_, revision), count in charged.items():
        limit = evidence.callback_limit if id_ in evidence.parents else evidence.limit
        if count > limit:
            yield f"{id_} was charged {count} attempts in revision {revision}, the limit is {limit}"
    for key, requests in _by_key(evidence).items():
        lost = sum(a.job == key[:36] and not a.charged for a in evidence.attempts) if len(requests) > evidence.limit else 0
        if len(requests) > evidence.limit + lost:
            yield f"{key} reached the provider {len(requests)} times: {evidence.limit} attempts, and {lost} that were lost"


def duplicates_have_causes(evidence: Evidence) -> Iterator[str]:
    """A second request is due to the first one's bad answer, or to a fault: the ledger must know, and the log must say why."""
    attempts = defaultdict(list)
    for attempt in evidence.attempts:
        attempts[attempt.job].append(attempt)
    for key, requests in _by_key(evidence).items():
        for first, second in pairwise(requests):
            if first.answer not in (200, None) or first.answered - first.at > evidence.patience:
                continue  # the provider refused, reset, hung or was too slow: it was asked again
            between = [
                a for a in attempts[key[:36]] if first.at - SLACK <= a.ended <= second.at + SLACK and a.outcome != "accepted"
            ]
            if not between:
                yield f"{key} was sent at {first.at:.3f} and {second.at:.3f}, and the ledger knows no reason"
            elif not any(fault.repeats and _about(fault, first, second, evidence.lease) for fault in evidence.faults):
                why = ", ".join(f"{a.outcome} {a.reason}" for a in between)
                yield f"{key} was sent at {first.at:.3f} and {second.at:.3f} ({why}), and no fault explains it"


def at_most_once(evidence: Evidence) -> Iterator[str]:
    for key, requests in _by_key(evidence).items():
        if key[:36] in evidence.at_most_once and len(requests) > 1:
            yield f"{key} reached the provider {len(requests)} times"


def every_end_is_told(evidence: Evidence) -> Iterator[str]:
    """At least once, under one id, signed; and nothing is told that did not come to be."""
    ends = {
        (step.job, step.version): f"{evidence.wanting[step.job]}.{step.status}"
        for step in evidence.steps
        if step.job in evidence.wanting and Status(step.status) in ENDS
    }
    arrived: dict[tuple[str, int], set[str]] = defaultdict(set)
    for callback in evidence.callbacks:
        end = (callback.job, callback.sequence)
        if not callback.verified:
            yield f"the receiver got {callback.id}, and the reference verifier refuses it"
        elif ends.get(end) != callback.type:
            yield f"{callback.job} was told to be {callback.type} at version {callback.sequence}: that was {ends.get(end)}"
        elif callback.answer == 204:
            arrived[end].add(callback.id)
    for (id_, version), type_ in ends.items():
        if not arrived[id_, version]:
            yield f"{id_} was {type_} at version {version}, and its client was not told"
        elif len(arrived[id_, version]) > 1:
            yield f"{id_} was {type_} at version {version}, and told under {len(arrived[id_, version])} ids"


def only_the_lost_is_swept(evidence: Evidence) -> Iterator[str]:
    """What the broker has confirmed is published again only where the broker, or who held it, was made to lose it.

    Or where faults kept it waiting: the sweep cannot tell a message that is late from one that is lost, and a copy is harmless.
    """
    became = {(step.job, step.version): step.at for step in evidence.steps}
    losses = [fault for fault in evidence.faults if fault.loses]
    for id_, version, at in evidence.republished:
        since = became.get((id_, version), at)
        lost = any(loss.begun <= at and since <= loss.ended + SLACK for loss in losses)
        if not lost and at - since - _disturbed(evidence.faults, since, at) > evidence.sweep_after / 2:
            yield f"{id_}, at version {version} since {since:.3f}, had to be published again at {at:.3f}: nothing had been lost"


def cache_goes_forward(evidence: Evidence) -> Iterator[str]:
    held: dict[str, tuple[int, float]] = {}
    for write in evidence.cache:
        if write.job is None:
            held.clear()
            continue
        version, until = held.get(write.job, (0, 0.0))
        if write.version < version and write.at < until:
            yield f"{write.job} was cached at version {version}, then at {write.version}"
        held[write.job] = (write.version, write.at + write.milliseconds / 1000)


def told_the_truth(evidence: Evidence) -> Iterator[str]:
    steps = by_job(evidence)
    stalls = [fault for fault in evidence.faults if fault.stalls]
    for seen in evidence.observations:
        wrong_for = staleness(seen, steps.get(seen.job, []))
        excused = sum(
            f.ended - f.begun for f in stalls if f.begun <= seen.answered and seen.asked <= f.ended + evidence.promised
        )
        if wrong_for is None:
            yield f"{seen.job} was called {seen.status}, which it had not been by then"
        elif wrong_for > evidence.promised + SLACK + excused:
            yield f"{seen.job} was called {seen.status} {wrong_for:.1f} s after that was over"


def all_faults_done(evidence: Evidence) -> Iterator[str]:
    yield from evidence.not_done


def ended_only_when_told(evidence: Evidence) -> Iterator[str]:
    yield from evidence.ended_by_themselves


INVARIANTS: dict[str, Check] = {
    "every accepted job ends, in one state": every_job_ends,
    "nothing ends that was not accepted": nothing_unaccepted,
    "one idempotency key makes one job": one_key_one_job,
    "versions rise one by one, by transitions of the table": by_the_table,
    "outbox, work queues and leases are empty": all_empty,
    "attempts stay within the limit": within_the_limit,
    "a duplicate request has a cause": duplicates_have_causes,
    "at_most_once reaches the provider at most once": at_most_once,
    "every end is told to who wants to be called": every_end_is_told,
    "only what the broker lost is published again": only_the_lost_is_swept,
    "the cache never goes back to an older version": cache_goes_forward,
    "a status is wrong no longer than promised": told_the_truth,
    "processes end only when told to, or killed": ended_only_when_told,
    "every fault could be injected": all_faults_done,
}


def violations(evidence: Evidence) -> dict[str, list[str]]:
    """By invariant, what breaks it; empty where all hold."""
    found = {name: list(check(evidence)) for name, check in INVARIANTS.items()}
    return {name: broken for name, broken in found.items() if broken}


def staleness(seen: Observation, steps: list[Step]) -> float | None:
    """For how many seconds what was seen had been over when it was asked for; None: it had never been true."""
    ends = [after.at for after in steps[1:]] + [float("inf")]
    over = [
        end for step, end in zip(steps, ends, strict=False) if step.status == seen.status and step.at <= seen.answered + SLACK
    ]
    return max(0.0, seen.asked - max(over)) if over else None


def _disturbed(faults: list[Fault], begun: float, ended: float) -> float:
    """Seconds of an interval during which any fault was under way, or had been a second ago."""
    total, reached = 0.0, begun
    for fault in sorted(faults, key=lambda fault: fault.begun):
        start, end = max(fault.begun, reached), min(fault.ended + SLACK, ended)
        total += max(0.0, end - start)
        reached = max(reached, end)
    return total


def _about(fault: Fault, first: Request, second: Request, lease: float) -> bool:
    """Whether a fault may have come between a request and its outcome: it overlaps the two, give or take one lease."""
    return fault.begun <= second.at and fault.ended + lease >= first.at


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
