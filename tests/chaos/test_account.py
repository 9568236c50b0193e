"""The account can fail: for each invariant, the smallest change of a good run's evidence that must violate it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.account import INVARIANTS, staleness, violations
from tests.chaos.evidence import Attempt, CacheWrite, Callback, Evidence, Fault, Observation, Request, Step

A, B = "01a200ca-0000-7000-8000-00000000000a", "01a200ca-0000-7000-8000-00000000000b"
TELLS_A = "01a200ca-0000-7000-8000-0000000000aa"


def _steps(job: str, *statuses: str, at: float = 100.0) -> list[Step]:
    befores = [None, *statuses]
    return [Step(job, n, status, befores[n - 1], at + n) for n, status in enumerate(statuses, 1)]


def _good() -> Evidence:
    """Two jobs: one sent at once, one sent again after its worker was killed."""
    return Evidence(
        max_attempts=3,
        max_staleness=3.0,
        lease_seconds=5.0,
        slow_after=1.4,
        sweep_after_seconds=12.0,
        max_callback_attempts=4,
        ids_by_key={"k1": {A}, "k2": {B}},
        steps=[
            *_steps(A, "queued", "processing", "sent"),
            *_steps(B, "queued", "processing", "retrying", "processing", "sent"),
            *_steps(TELLS_A, "queued", "processing", "retrying", "processing", "sent", at=103.0),
        ],
        attempts=[
            Attempt(A, 0, "accepted", None, True, 103.0),
            Attempt(B, 0, "lease_lost", "lease_lost", False, 103.0),
            Attempt(B, 0, "accepted", None, True, 105.0),
            *[Attempt(TELLS_A, 0, "retryable", "http_500", True, 105.0)] * 3,
            Attempt(TELLS_A, 0, "accepted", None, True, 106.0),
        ],
        at_most_once={A},
        requests=[Request(A, 102.5, 200, 102.6), Request(B, 102.5, 200, 102.6), Request(B, 104.5, 200, 104.6)],
        observations=[Observation(A, 101.5, 101.6, "queued"), Observation(A, 104.0, 104.1, "processing")],
        cache_writes=[
            CacheWrite(0.0),
            CacheWrite(101.1, A, 1, 2000),
            CacheWrite(102.1, A, 2, 2000),
            CacheWrite(103.1, A, 3, 9999),
        ],
        faults=[Fault("SIGKILL", "consumer-1", 102.6, 102.7, duplicates_requests=True)],
        remaining={"outbox rows": 0},
        jobs_with_callback={A: "message"},
        parents={TELLS_A: A},
        callbacks=[Callback(TELLS_A, A, 3, "message.sent", True, 500), Callback(TELLS_A, A, 3, "message.sent", True, 204)],
    )


def test_a_good_run_is_green() -> None:
    assert violations(_good()) == {}


def _never_ends(e: Evidence) -> None:
    e.steps = [step for step in e.steps if (step.job, step.version) != (A, 3)]


def _lost(e: Evidence) -> None:
    e.ids_by_key["k3"] = {"01a200ca-0000-7000-8000-00000000000c"}


def _unaccepted(e: Evidence) -> None:
    del e.ids_by_key["k2"]


def _two_of_one_key(e: Evidence) -> None:
    e.ids_by_key = {"k1": {A, B}}


def _server_error(e: Evidence) -> None:
    e.unexpected_answers.append("key k3: 500")


def _version_left_out(e: Evidence) -> None:
    e.steps = [replace(step, version=4) if (step.job, step.version) == (A, 3) else step for step in e.steps]


def _version_twice(e: Evidence) -> None:
    e.steps.append(Step(A, 3, "failed", "processing", 104.0))


def _forbidden_step(e: Evidence) -> None:
    e.steps.append(Step(A, 4, "queued", "sent", 104.0))
    e.steps += [Step(A, 5, "processing", "queued", 105.0), Step(A, 6, "sent", "processing", 106.0)]


def _something_left(e: Evidence) -> None:
    e.remaining["outbox rows"] = 1


def _charged_too_often(e: Evidence) -> None:
    e.attempts += [Attempt(A, 0, "retryable", "http_500", True, 102.0)] * 3


def _sent_too_often(e: Evidence) -> None:
    e.requests += [Request(B, 104.6 + n, 500, 104.7 + n) for n in range(3)]


def _unknown_to_the_ledger(e: Evidence) -> None:
    e.attempts = [attempt for attempt in e.attempts if attempt.outcome != "lease_lost"]


def _no_fault(e: Evidence) -> None:
    e.faults.clear()


def _fault_long_before(e: Evidence) -> None:
    e.faults = [replace(fault, started_at=10.0, ended_at=11.0) for fault in e.faults]


def _harmless_fault(e: Evidence) -> None:
    e.faults = [replace(fault, duplicates_requests=False) for fault in e.faults]


def _twice_at_most_once(e: Evidence) -> None:
    e.at_most_once = {B}


def _not_told(e: Evidence) -> None:
    e.callbacks = [callback for callback in e.callbacks if callback.answer != 204]


def _not_told_of_every_end(e: Evidence) -> None:
    e.steps += [Step(A, 4, "delivered", "sent", 104.0)]


def _told_something_else(e: Evidence) -> None:
    e.callbacks.append(Callback(TELLS_A, A, 2, "message.sent", True, 204))


def _told_under_two_ids(e: Evidence) -> None:
    e.callbacks.append(replace(e.callbacks[1], id="another"))


def _badly_signed(e: Evidence) -> None:
    e.callbacks.append(replace(e.callbacks[1], verified=False))


def _callback_of_nobody(e: Evidence) -> None:
    e.parents[TELLS_A] = "01a200ca-0000-7000-8000-00000000000c"


def _callback_charged_too_often(e: Evidence) -> None:
    e.attempts.append(Attempt(TELLS_A, 0, "retryable", "http_500", True, 105.0))


def _swept_for_nothing(e: Evidence) -> None:
    e.republications.append((A, 1, 120.0))


def _older_in_the_cache(e: Evidence) -> None:
    e.cache_writes.append(CacheWrite(103.2, A, 2, 2000))


def _wrong_for_long(e: Evidence) -> None:
    e.observations.append(Observation(A, 108.0, 108.1, "processing"))


def _never_true(e: Evidence) -> None:
    e.observations.append(Observation(A, 104.0, 104.1, "failed"))


def _not_yet_true(e: Evidence) -> None:
    e.observations.append(Observation(A, 101.1, 101.2, "sent"))


def _fault_not_done(e: Evidence) -> None:
    e.failed_injections.append("alarm: no answer")


def _crashed(e: Evidence) -> None:
    e.unexpected_exits.append("relay-1 ended with 1")


BREAKING: list[tuple[Callable[[Evidence], None], str]] = [
    (_never_ends, "every accepted job ends, in one state"),
    (_lost, "every accepted job ends, in one state"),
    (_unaccepted, "nothing ends that was not accepted"),
    (_two_of_one_key, "one idempotency key makes one job"),
    (_server_error, "one idempotency key makes one job"),
    (_version_left_out, "versions rise one by one, by transitions of the table"),
    (_version_twice, "versions rise one by one, by transitions of the table"),
    (_forbidden_step, "versions rise one by one, by transitions of the table"),
    (_something_left, "outbox, work queues and leases are empty"),
    (_charged_too_often, "attempts stay within the limit"),
    (_sent_too_often, "attempts stay within the limit"),
    (_unknown_to_the_ledger, "a duplicate request has a cause"),
    (_no_fault, "a duplicate request has a cause"),
    (_fault_long_before, "a duplicate request has a cause"),
    (_harmless_fault, "a duplicate request has a cause"),
    (_twice_at_most_once, "at_most_once reaches the provider at most once"),
    (_not_told, "every final status produces a callback"),
    (_not_told_of_every_end, "every final status produces a callback"),
    (_told_something_else, "every final status produces a callback"),
    (_told_under_two_ids, "every final status produces a callback"),
    (_badly_signed, "every final status produces a callback"),
    (_callback_of_nobody, "nothing ends that was not accepted"),
    (_callback_charged_too_often, "attempts stay within the limit"),
    (_swept_for_nothing, "only what the broker lost is published again"),
    (_older_in_the_cache, "the cache never goes back to an older version"),
    (_wrong_for_long, "a status is wrong no longer than promised"),
    (_never_true, "a status is wrong no longer than promised"),
    (_not_yet_true, "a status is wrong no longer than promised"),
    (_fault_not_done, "every fault could be injected"),
    (_crashed, "processes end only by a signal"),
]


@pytest.mark.parametrize(("change", "invariant"), BREAKING, ids=[change.__name__ for change, _ in BREAKING])
def test_each_violation_names_its_invariant(change: Callable[[Evidence], None], invariant: str) -> None:
    evidence = _good()
    change(evidence)
    assert invariant in violations(evidence)


def test_every_invariant_has_been_broken() -> None:
    assert {invariant for _, invariant in BREAKING} == set(INVARIANTS)


def _purged(e: Evidence) -> None:
    e.republications.append((A, 1, 120.0))
    e.faults.append(Fault("purged", "", 101.5, 101.6, loses_messages=True))


def _kept_waiting(e: Evidence) -> None:
    e.republications.append((A, 1, 114.0))
    e.faults.append(Fault("SIGSTOP", "rabbitmq", 102.0, 112.0))


def _wiped(e: Evidence) -> None:
    e.cache_writes += [CacheWrite(103.15), CacheWrite(103.2, A, 2, 2000)]


def _expired(e: Evidence) -> None:
    e.cache_writes.append(CacheWrite(113.2, A, 2, 2000))


def _stalled(e: Evidence) -> None:
    e.observations.append(Observation(A, 108.0, 108.1, "processing"))
    e.faults.append(Fault("SIGSTOP", "postgres", 103.0, 106.0, delays_visibility=True))


def _too_slow(e: Evidence) -> None:
    e.faults.clear()
    e.requests[1] = replace(e.requests[1], answered_at=104.4)


@pytest.mark.parametrize("change", [_purged, _kept_waiting, _wiped, _expired, _stalled, _too_slow])
def test_an_excused_anomaly_violates_nothing(change: Callable[[Evidence], None]) -> None:
    evidence = _good()
    change(evidence)
    assert violations(evidence) == {}


def test_staleness_is_counted_from_the_end_of_the_observed_status() -> None:
    steps = _steps(A, "queued", "processing", "sent")
    assert staleness(Observation(A, 104.0, 104.1, "queued"), steps) == pytest.approx(2.0)
    assert staleness(Observation(A, 104.0, 104.1, "sent"), steps) == 0.0
