"""The reaper waits for a whole lease of unbroken contact with Postgres."""

from dataclasses import dataclass, field

import pytest

from consumers.reaper import Reaper
from infra.errors import Transient
from jobs.model import Delivery, LostLease
from jobs.retry import RetryPolicy
from tests.support.factories import SANDBOX, new_id


class Away(Transient):
    pass


@dataclass
class Leases:
    """A ledger with one expired lease and this duration of contact."""

    contact: float
    is_away: bool = False
    now: float = 1000.0  # Postgres' clock

    async def expired_leases(self, limit: int, timeout: float) -> list[LostLease]:
        if self.is_away:
            raise Away
        return [LostLease(new_id(), 2, new_id(), SANDBOX, Delivery.AT_LEAST_ONCE, 0)]

    async def clock(self, timeout: float) -> float:
        return self.now

    def contact_seconds(self) -> float:
        return self.contact


@dataclass
class Recorder:
    losses: list[LostLease] = field(default_factory=list)
    failing: int = 0
    policies: list[RetryPolicy] = field(default_factory=list)

    async def record_lost(self, job: LostLease, policy: RetryPolicy) -> None:
        if self.failing:
            self.failing -= 1
            raise ZeroDivisionError
        self.losses.append(job)
        self.policies.append(policy)


async def test_a_lost_lease_is_retried_by_the_policy_of_its_own_queue() -> None:
    recorder, policy = Recorder(), RetryPolicy(base_seconds=77)
    policies = {"messages.other.normal": RetryPolicy(base_seconds=5), SANDBOX.name: policy}
    assert await Reaper(Leases(contact=60.0), recorder.record_lost, policies, lease_seconds=60).reap() == 1
    assert recorder.policies == [policy]


async def _reaped(leases: Leases) -> int:
    recorder = Recorder()
    reaper = Reaper(leases, recorder.record_lost, {}, lease_seconds=60)
    assert await reaper.reap() == len(recorder.losses)
    return len(recorder.losses)


async def test_after_a_whole_lease_of_contact_the_reaper_reaps() -> None:
    assert await _reaped(Leases(contact=60.0)) == 1


async def test_a_job_whose_lost_lease_cannot_be_recorded_ends_neither_the_reaper_nor_the_others() -> None:
    recorder = Recorder(failing=1)
    reaper = Reaper(Leases(contact=60.0), recorder.record_lost, {}, lease_seconds=60)
    assert [await reaper.reap(), await reaper.reap()] == [0, 1]


async def test_soon_after_an_outage_the_reaper_lets_workers_record_first() -> None:
    assert await _reaped(Leases(contact=59.9)) == 0
    assert await _reaped(Leases(contact=0.0)) == 0


async def test_while_postgres_is_down_the_reaper_waits() -> None:
    recorder = Recorder()
    with pytest.raises(Away):
        await Reaper(Leases(contact=60.0, is_away=True), recorder.record_lost, {}, lease_seconds=60).reap()
    assert recorder.losses == []


async def test_after_a_step_of_postgres_clock_the_reaper_waits_for_a_whole_lease() -> None:
    leases, now = Leases(contact=600.0), 0.0
    reaper = Reaper(leases, Recorder().record_lost, {}, lease_seconds=60, monotonic=lambda: now)
    assert await reaper.reap() == 1
    now, leases.now = 5.0, 1000.0 + 5 + 3600
    assert await reaper.reap() == 0
    now, leases.now = 64.9, leases.now + 59.9
    assert await reaper.reap() == 0
    now, leases.now = 65.0, leases.now + 0.1
    assert await reaper.reap() == 1
