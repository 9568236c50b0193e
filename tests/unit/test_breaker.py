"""The breaker, and the gate that applies it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.gate import Gate
from consumers.slots import Slots
from jobs.breaker import Breaker, BreakerPolicy, State
from jobs.outcome import NOT_STARTED, UNKNOWN_AT_SHUTDOWN, Outcome, Verdict
from tests.support.factories import ACCEPTED
from tests.support.fakes import FakeSwitch
from tests.support.waiting import until

POLICY = BreakerPolicy(failures=3, open_seconds=5, cap_seconds=15)
TIMEOUT = Outcome(Verdict.UNKNOWN, "timeout", answered=False)
REFUSED = Outcome(Verdict.DEFERRED, "no_connection", surely_not_sent=True, answered=False)
FAILED = Outcome(Verdict.RETRYABLE, "http_500", 500)
WAIT = Outcome(Verdict.DEFERRED, "http_429", 429, retry_after_seconds=20)


def _after(*outcomes: Outcome, now: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for outcome in outcomes:
        breaker = breaker.after(outcome, now)
    return breaker


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ((), State.CLOSED),
        ((TIMEOUT, REFUSED), State.CLOSED),
        ((REFUSED, REFUSED), State.CLOSED),
        ((TIMEOUT, REFUSED, TIMEOUT), State.OPEN),
        ((REFUSED, REFUSED, REFUSED), State.OPEN),
        ((TIMEOUT, TIMEOUT, FAILED, TIMEOUT, TIMEOUT), State.CLOSED),  # an error is an answer
        ((TIMEOUT, TIMEOUT, ACCEPTED, TIMEOUT), State.CLOSED),
        ((TIMEOUT, TIMEOUT, NOT_STARTED, UNKNOWN_AT_SHUTDOWN, TIMEOUT), State.CLOSED),
        ((TIMEOUT, TIMEOUT, NOT_STARTED, TIMEOUT), State.OPEN),
        ((WAIT,), State.OPEN),
    ],
)
def test_failures_that_open_the_breaker(outcomes: tuple[Outcome, ...], state: State) -> None:
    assert _after(*outcomes).state(0.0) is state


def test_the_breaker_half_opens_after_a_while_and_one_answer_decides() -> None:
    opened = _after(*[TIMEOUT] * 3)
    assert [opened.state(now) for now in (0, 4.9, 5.0)] == [State.OPEN, State.OPEN, State.HALF_OPEN]
    assert opened.after(ACCEPTED, 6).state(6) is State.CLOSED
    again = opened.after(TIMEOUT, 6)
    assert [again.state(now) for now in (15.9, 16.0)] == [State.OPEN, State.HALF_OPEN]
    third = again.after(TIMEOUT, 16)
    assert [third.state(now) for now in (30.9, 31.0)] == [State.OPEN, State.HALF_OPEN]  # capped


def test_each_refused_connection_of_a_probe_doubles_the_open_time() -> None:
    """A refused connection is a failure, not a request for a delay: it opens the breaker as a timeout does."""
    assert _after(*[REFUSED] * 3) == _after(*[TIMEOUT] * 3)
    again = _after(*[REFUSED] * 3).after(REFUSED, 6)
    assert [again.state(now) for now in (15.9, 16.0)] == [State.OPEN, State.HALF_OPEN]


def test_requests_from_before_the_breaker_opened_do_not_prolong_it() -> None:
    opened = _after(*[TIMEOUT] * 3)
    assert opened.after(TIMEOUT, 4).after(TIMEOUT, 4.5) == opened


def test_the_breaker_waits_as_long_as_retry_after_says() -> None:
    assert [_after(WAIT).state(now) for now in (19.9, 20.0)] == [State.OPEN, State.HALF_OPEN]
    assert _after(WAIT, Outcome(Verdict.DEFERRED, "http_429", 429)).until == 20.0


def test_a_provider_that_asks_for_no_time_at_all_is_left_alone_for_a_second() -> None:
    at_once = Outcome(Verdict.DEFERRED, "http_429", 429, retry_after_seconds=0)
    assert [_after(at_once).state(now) for now in (0.0, 0.9, 1.0)] == [State.OPEN, State.OPEN, State.HALF_OPEN]


@given(st.lists(st.sampled_from([TIMEOUT, REFUSED, FAILED, WAIT, ACCEPTED, NOT_STARTED]), max_size=60))
def test_an_answer_always_closes_the_breaker_and_it_never_stays_open_for_long(outcomes: list[Outcome]) -> None:
    breaker = _after(*outcomes)
    assert breaker.until is None or breaker.until <= 20.0
    assert breaker.after(ACCEPTED, 0.0).state(0.0) is State.CLOSED


async def test_the_gate_stops_consuming_tries_one_and_resumes() -> None:
    now, switch, slots = [0.0], FakeSwitch(), Slots(8)
    gate = Gate("a", ["high", "normal"], slots, switch, Breaker(BreakerPolicy(1, 0.05, 1)), monotonic=lambda: now[0])
    running = asyncio.create_task(gate.run())

    gate.record_outcome(TIMEOUT)
    assert gate.is_open
    await until(lambda: list(switch.calls), lambda calls: calls == ["pause high", "pause normal"], 5)
    now[0] = 0.06
    await until(lambda: list(switch.calls), lambda calls: calls[2:] == ["resume high", "resume normal"], 5)
    assert (gate.state, slots._limit) == (State.HALF_OPEN, 1)
    gate.record_outcome(ACCEPTED)
    await until(lambda: slots._limit, lambda limit: limit == 8, 5)
    gate.pause(True)
    await until(lambda: list(switch.calls), lambda calls: len(calls) == 6, 5)
    assert gate.is_open
    gate.record_outcome(ACCEPTED)
    assert gate.is_open
    gate.pause(False)
    await until(lambda: list(switch.calls), lambda calls: len(calls) == 8, 5)
    assert not gate.is_open
    running.cancel()
