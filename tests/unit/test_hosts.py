"""One bad receiver does not stand in the others' way: shares of the slots, and hosts that do not answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from consumers import callbacks
from consumers.callbacks import LEFT_ALONE, Hosts, SendCallback
from jobs.breaker import BreakerPolicy
from jobs.model import CALLBACKS, Progress
from jobs.outcome import Outcome, Verdict
from tests.making import ACCEPTED, claimed

TIMEOUT = Outcome(Verdict.UNKNOWN, "timeout")
POLICY = BreakerPolicy(failures=3, open_seconds=5, cap_seconds=60)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Sends:
    """Counts, and answers what it is told."""

    outcome: Outcome = ACCEPTED
    made: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    async def now(self) -> Outcome:
        self.made += 1
        return self.outcome

    async def held(self) -> Outcome:
        self.made += 1
        await self.hold.wait()
        return self.outcome


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "CALLBACK_PATIENCE", 0.05)


async def _calls(hosts: Hosts, send: Callable[[], Awaitable[Outcome]], count: int, name: str = "a:80") -> list[Outcome]:
    return [await hosts.call(name, 0, send) for _ in range(count)]


async def test_a_slow_host_gets_its_share_of_the_slots_and_no_more() -> None:
    hosts, slow, quick = Hosts(2, POLICY), Sends(), Sends()
    calls = [asyncio.create_task(hosts.call("slow:80", tries, slow.held)) for tries in (0, 0, 0, 4)]
    done, _ = await asyncio.wait(calls[2:], timeout=5)
    assert len(done) == 2 and slow.made == 2
    pauses = [task.result().retry_after_seconds for task in calls[2:]]
    assert {task.result().reason for task in calls[2:]} == {"host_busy"}
    assert pauses == [2.0, 32.0]  # it grows with the tries, so that a long queue is not claimed all the time
    assert await hosts.call("quick:80", 0, quick.now) == ACCEPTED
    slow.hold.set()
    assert await asyncio.gather(*calls[:2]) == [ACCEPTED, ACCEPTED]


async def test_a_host_that_does_not_answer_is_left_alone_for_a_while() -> None:
    clock = Clock()
    hosts, ill, well = Hosts(8, POLICY, monotonic=clock), Sends(TIMEOUT), Sends()
    assert await _calls(hosts, ill.now, 5) == [TIMEOUT, TIMEOUT, TIMEOUT, LEFT_ALONE, LEFT_ALONE]
    assert ill.made == 3
    assert await hosts.call("b:80", 0, well.now) == ACCEPTED
    clock.now = 5.0
    trying = asyncio.create_task(hosts.call("a:80", 0, ill.held))
    await asyncio.sleep(0)
    assert await hosts.call("a:80", 0, well.now) == LEFT_ALONE  # one at a time, until it is known to be well
    ill.outcome = ACCEPTED
    ill.hold.set()
    assert await trying == ACCEPTED
    assert await _calls(hosts, well.now, 3) == [ACCEPTED] * 3


async def test_any_answer_of_a_host_counts_as_one_but_one_receivers_plea_is_its_own() -> None:
    hosts = Hosts(8, POLICY)
    patience = Outcome(Verdict.DEFERRED, "http_429", 429, surely_not_sent=True, retry_after_seconds=3600)
    failed = Outcome(Verdict.RETRYABLE, "http_500", 500)
    for outcome in (TIMEOUT, TIMEOUT, failed, TIMEOUT, TIMEOUT, patience):
        assert await hosts.call("a:80", 0, Sends(outcome).now) == outcome
    assert await hosts.call("a:80", 0, Sends().now) == ACCEPTED


async def test_hosts_that_are_well_are_forgotten_and_of_the_others_only_so_many_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "KNOWN_HOSTS", 10)
    hosts = Hosts(8, POLICY)
    for n in range(50):
        await hosts.call(f"well-{n}", 0, Sends().now)
    assert not hosts._hosts
    for n in range(50):
        await hosts.call(f"ill-{n}", 0, Sends(TIMEOUT).now)
    assert len(hosts._hosts) == 10


async def test_the_handler_sends_what_the_job_says_under_its_id() -> None:
    sent: list[tuple[str, str, str]] = []

    class Sender:
        timeout_seconds = 15.0

        async def send(self, url: str, id_: str, body: str) -> Outcome:
            sent.append((url, id_, body))
            return ACCEPTED

    job, handler = claimed(queue=CALLBACKS), SendCallback(Sender(), Hosts(1, POLICY))
    assert await handler(job, Progress()) == ACCEPTED
    assert sent == [("+1", str(job.id), "hello")]
    assert handler.timeout_seconds > 15.0
