"""A failing receiver delays no other: shares of the slots, and breakers per host."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from consumers import hosts as hosts_module
from consumers.handlers import send_callback
from consumers.hosts import BREAKER_OPEN, Hosts, Receiver, host_of
from jobs.breaker import BreakerPolicy
from jobs.decision import decide
from jobs.lifecycle import Status
from jobs.model import CALLBACKS, Progress
from jobs.outcome import Outcome, Verdict
from jobs.retry import RetryPolicy
from tests.support.factories import ACCEPTED, claimed
from tests.support.waiting import until

TIMEOUT = Outcome(Verdict.UNKNOWN, "timeout", answered=False)
POLICY = BreakerPolicy(failures=3, open_seconds=5, cap_seconds=60)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Sends:
    """A sender that counts its calls and returns a fixed outcome."""

    outcome: Outcome = ACCEPTED
    count: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    async def now(self) -> Outcome:
        self.count += 1
        return self.outcome

    async def blocked(self) -> Outcome:
        self.count += 1
        await self.hold.wait()
        return self.outcome


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "CALLBACK_WAIT_SECONDS", 0.05)


A, B = Receiver("a", "host:80"), Receiver("b", "host:80")  # two clients at one host


async def _calls(hosts: Hosts, send: Callable[[], Awaitable[Outcome]], count: int, receiver: Receiver = A) -> list[Outcome]:
    return [await hosts.call(receiver, send) for _ in range(count)]


async def _slow(hosts: Hosts, receivers: list[Receiver], slow: Sends) -> list[str | None]:
    """Start a slow call of each receiver; return the reasons of the deferred ones."""
    calls = [asyncio.create_task(hosts.call(receiver, slow.blocked)) for receiver in receivers]
    done, _ = await asyncio.wait(calls, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    for call in done:
        assert (call.result().verdict, call.result().surely_not_sent) == (Verdict.DEFERRED, True)
    return [call.result().reason for call in done]


async def test_a_slow_host_gets_its_share_of_the_slots_and_no_more() -> None:
    hosts, slow, quick = Hosts(8, POLICY), Sends(), Sends()
    assert await _slow(hosts, [A] * 5, slow) == ["host_busy"]
    assert slow.count == 4
    assert await hosts.call(Receiver("a", "quick:80"), quick.now) == ACCEPTED
    assert await _slow(hosts, [B] * 3, slow) == ["host_busy"]  # six of the eight slots are the host's most
    assert slow.count == 6
    assert await hosts.call(Receiver("b", "quick:80"), quick.now) == ACCEPTED
    slow.hold.set()


async def test_a_client_with_many_slow_hosts_leaves_slots_to_other_clients() -> None:
    hosts, slow = Hosts(8, POLICY), Sends()
    assert await _slow(hosts, [Receiver("a", f"slow-{n}:80") for n in range(7)], slow) == ["host_busy"]
    assert slow.count == 6
    assert await hosts.call(Receiver("b", "quick:80"), Sends().now) == ACCEPTED
    slow.hold.set()


async def test_a_call_that_waits_for_one_share_holds_no_other() -> None:
    hosts, slow = Hosts(8, POLICY), Sends()
    assert await _slow(hosts, [A] * 4 + [B] * 3, slow) == ["host_busy"]
    waiting = asyncio.create_task(hosts.call(B, slow.blocked))
    await asyncio.sleep(0)
    assert hosts._shares.in_use[("client", "b")] == 2
    slow.hold.set()
    assert await waiting == ACCEPTED
    await until(lambda: len(hosts._shares.in_use), lambda count: count == 0, 5)


async def test_a_host_that_does_not_answer_is_left_alone_for_a_while() -> None:
    clock = Clock()
    hosts, ill, well = Hosts(8, POLICY, monotonic=clock), Sends(TIMEOUT), Sends()
    deferral = replace(BREAKER_OPEN, retry_after_seconds=5.0)
    assert await _calls(hosts, ill.now, 5) == [TIMEOUT, TIMEOUT, TIMEOUT, deferral, deferral]
    assert ill.count == 3
    assert await hosts.call(Receiver("a", "b:80"), well.now) == ACCEPTED
    clock.now = 5.0
    probe = asyncio.create_task(hosts.call(A, ill.blocked))
    await asyncio.sleep(0)
    assert (await hosts.call(A, well.now)).reason == "host_left_alone"  # one at a time, until one succeeds
    ill.outcome = ACCEPTED
    ill.hold.set()
    assert await probe == ACCEPTED
    assert await _calls(hosts, well.now, 3) == [ACCEPTED] * 3


async def test_a_client_whose_receiver_is_dead_costs_another_client_at_the_same_host_nothing() -> None:
    hosts = Hosts(8, POLICY)
    await _calls(hosts, Sends(TIMEOUT).now, 3, A)
    assert (await hosts.call(A, Sends().now)).reason == "host_left_alone"
    assert await hosts.call(B, Sends().now) == ACCEPTED


async def test_a_call_that_was_not_made_is_not_charged_and_comes_back_when_the_host_is_tried_again() -> None:
    hosts, job = Hosts(8, POLICY), claimed(queue=CALLBACKS)
    await _calls(hosts, Sends(TIMEOUT).now, 3)
    step = decide(job, await hosts.call(A, Sends().now), RetryPolicy(), ran_seconds=0.0, jitter=0.0)
    assert step.attempt is not None and not step.attempt.charged
    assert (step.to, round(step.delay_seconds)) == (Status.QUEUED, 5)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://SLOW.example/a?b#", "http://SLOW.example/a?b#"),  # refused by the sender
        ("http://SLOW.example/a?b", "slow.example:80"),
        ("HTTP://slow.example:80", "slow.example:80"),
        ("https://slow.example:443/x", "slow.example:443"),
        ("https://Slow.Example", "slow.example:443"),
        ("https://[2001:DB8:0::1]:8443/", "2001:db8::1:8443"),
    ],
)
def test_a_host_has_one_spelling(url: str, host: str) -> None:
    assert host_of(url) == host


async def test_any_answer_of_a_host_counts_as_one_but_one_receivers_plea_is_its_own() -> None:
    hosts = Hosts(8, POLICY)
    patience = Outcome(Verdict.DEFERRED, "http_429", 429, surely_not_sent=True, retry_after_seconds=3600)
    failed = Outcome(Verdict.RETRYABLE, "http_500", 500)
    for outcome in (TIMEOUT, TIMEOUT, failed, TIMEOUT, TIMEOUT, patience):
        assert await hosts.call(A, Sends(outcome).now) == outcome
    assert await hosts.call(A, Sends().now) == ACCEPTED


async def test_healthy_hosts_are_forgotten_and_the_number_of_others_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "MAX_RECEIVERS", 10)
    hosts = Hosts(8, POLICY)
    for n in range(50):
        await hosts.call(Receiver("a", f"well-{n}"), Sends().now)
    assert not hosts._breakers
    for n in range(50):
        await hosts.call(Receiver("a", f"ill-{n}"), Sends(TIMEOUT).now)
    assert len(hosts._breakers) == 10


async def test_the_handler_sends_what_the_job_says_under_its_id_as_its_client() -> None:
    requests: list[tuple[str, str, str]] = []

    class Sender:
        outcome = ACCEPTED

        async def send(self, url: str, id_: str, body: str) -> Outcome:
            requests.append((url, id_, body))
            return self.outcome

    sender, url = Sender(), "https://Receiver.example/hook"
    job, handler = replace(claimed(queue=CALLBACKS), destination=url), partial(send_callback, sender, Hosts(2, POLICY))
    assert await handler(job, Progress()) == ACCEPTED
    assert requests == [(url, str(job.id), "hello")]
    sender.outcome = TIMEOUT
    for spelling in (url, url.lower(), url.replace("/hook", ":443/hook")):
        assert await handler(replace(job, destination=spelling), Progress()) == TIMEOUT
    assert (await handler(job, Progress())).reason == "host_left_alone"
    assert await handler(replace(job, client_id="another"), Progress()) == TIMEOUT
