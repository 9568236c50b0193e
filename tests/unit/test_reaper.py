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
    dead: list[int] = field(default_factory=list)  # workers with a job whose lock is free

    async def expired_leases(self, limit: int, timeout: float) -> list[LostLease]:
        if self.is_away:
            raise Away
        return [LostLease(new_id(), 2, new_id(), SANDBOX, Delivery.AT_LEAST_ONCE, 0)]

    async def orphans(self, limit: int, timeout: float) -> list[LostLease]:
        if self.is_away:
            raise Away
        return [LostLease(new_id(), 2, new_id(), SANDBOX, Delivery.AT_LEAST_ONCE, 0, worker_id=w) for w in self.dead]

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
    assert await Reaper(Leases(contact=60.0), recorder.record_lost, policies, lease_seconds=60, grace_seconds=2).reap() == 1
    assert recorder.policies == [policy]


async def _reaped(leases: Leases) -> int:
    recorder = Recorder()
    reaper = Reaper(leases, recorder.record_lost, {}, lease_seconds=60, grace_seconds=2)
    assert await reaper.reap() == len(recorder.losses)
    return len(recorder.losses)


async def test_after_a_whole_lease_of_contact_the_reaper_reaps() -> None:
    assert await _reaped(Leases(contact=60.0)) == 1


async def test_a_job_whose_lost_lease_cannot_be_recorded_ends_neither_the_reaper_nor_the_others() -> None:
    recorder = Recorder(failing=1)
    reaper = Reaper(Leases(contact=60.0), recorder.record_lost, {}, lease_seconds=60, grace_seconds=2)
    assert [await reaper.reap(), await reaper.reap()] == [0, 1]


async def test_soon_after_an_outage_the_reaper_lets_workers_record_first() -> None:
    assert await _reaped(Leases(contact=59.9)) == 0
    assert await _reaped(Leases(contact=0.0)) == 0


async def test_while_postgres_is_down_the_reaper_waits() -> None:
    recorder = Recorder()
    with pytest.raises(Away):
        await Reaper(Leases(contact=60.0, is_away=True), recorder.record_lost, {}, lease_seconds=60, grace_seconds=2).reap()
    assert recorder.losses == []


async def test_after_a_step_of_postgres_clock_the_reaper_waits_for_a_whole_lease() -> None:
    leases, now = Leases(contact=600.0), 0.0
    reaper = Reaper(leases, Recorder().record_lost, {}, lease_seconds=60, grace_seconds=2, monotonic=lambda: now)
    assert await reaper.reap() == 1
    now, leases.now = 5.0, 1000.0 + 5 + 3600
    assert await reaper.reap() == 0
    now, leases.now = 64.9, leases.now + 59.9
    assert await reaper.reap() == 0
    now, leases.now = 65.0, leases.now + 0.1
    assert await reaper.reap() == 1


@dataclass
class OrphanChecks:
    """A reaper that checks for dead workers at the instants of a test, in seconds."""

    leases: Leases = field(default_factory=lambda: Leases(contact=600.0))
    recorder: Recorder = field(default_factory=Recorder)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.reaper = Reaper(
            self.leases, self.recorder.record_lost, {}, lease_seconds=60, grace_seconds=2, monotonic=lambda: self.now
        )

    async def at(self, now: float, dead: list[int]) -> int:
        """Check at this instant, while the locks of these workers are free; the number of jobs taken back."""
        self.now, self.leases.dead = now, dead
        return await self.reaper.reap_orphans()


async def test_a_lock_that_is_free_for_the_grace_loses_the_jobs_of_its_worker() -> None:
    checks = OrphanChecks()
    assert [await checks.at(now, [7]) for now in (10.0, 10.5, 11.9, 12.0)] == [0, 0, 0, 1]
    assert [lost.worker_id for lost in checks.recorder.losses] == [7]


async def test_each_worker_has_a_grace_of_its_own() -> None:
    checks = OrphanChecks()
    assert await checks.at(10.0, [7]) == 0
    assert await checks.at(11.5, [7, 8]) == 0
    assert await checks.at(12.0, [7, 8]) == 1
    assert await checks.at(13.5, [8]) == 1


async def test_a_lock_that_is_held_again_begins_a_new_grace() -> None:
    checks = OrphanChecks()
    assert [await checks.at(10.0, [7]), await checks.at(11.0, []), await checks.at(12.0, [7])] == [0, 0, 0]
    assert [await checks.at(13.9, [7]), await checks.at(14.0, [7])] == [0, 1]


async def test_after_an_outage_of_postgres_the_grace_begins_anew() -> None:
    """A restart of Postgres frees the locks of all workers, and takes the contact of all reapers."""
    checks = OrphanChecks()
    assert await checks.at(10.0, [7]) == 0
    checks.leases.is_away = True
    with pytest.raises(Away):
        await checks.at(11.0, [7])
    checks.leases.is_away, checks.leases.contact = False, 1.9
    assert await checks.at(13.0, [7]) == 0
    checks.leases.contact = 2.0
    assert await checks.at(13.1, [7]) == 1


async def test_a_slow_look_does_not_count_as_grace() -> None:
    checks = OrphanChecks()
    checks.leases.dead = [7]
    found = checks.leases.orphans

    async def slow(limit: int, timeout: float) -> list[LostLease]:
        checks.now += 4.0
        return await found(limit, timeout)

    checks.leases.orphans = slow  # type: ignore[method-assign]
    assert [await checks.reaper.reap_orphans(), await checks.reaper.reap_orphans()] == [0, 0]
    checks.now += 2.0
    assert await checks.reaper.reap_orphans() == 1


async def test_a_worker_without_its_lock_keeps_its_own_jobs() -> None:
    checks = OrphanChecks()
    checks.reaper.worker_id = 7
    assert [await checks.at(10.0, [7, 8]), await checks.at(12.0, [7, 8])] == [0, 1]
    assert [lost.worker_id for lost in checks.recorder.losses] == [8]
