"""Planted bugs: each removes one fence, and a test must find it by the invariant that it violates.

The service has no switch for them: `setattr` plants one in a forked process, a monkeypatch in a test.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from consumers.runner import Runner
from consumers.sweeper import Sweeper
from infra.errors import Transient
from infra.postgres import dead_letters, ledger
from infra.postgres.leadership import HELD_WORKERS, is_free
from infra.postgres.transitions import apply, claim
from infra.redis import status_cache
from jobs import decision
from jobs.model import Delivery
from jobs.wire import Pointer
from service import batching, transitions
from service.publishing import EagerPublisher, Outgoing
from tests.chaos import simulation
from tests.support.fakes import FakeCache, FakeLedger

Patch = Callable[[Any, str, Any], None]


@dataclass(frozen=True)
class Bug:
    """A patch of the service, one of the fakes if they hold the fence, and the invariants that it violates."""

    plant: Callable[[Patch], None]
    violates: tuple[str, ...]
    plant_fake: Callable[[Patch], None] = lambda patch: None


def _delete_before_confirm(patch: Patch) -> None:
    publish = EagerPublisher._publish

    async def delete_first(self: EagerPublisher, batch: list[Outgoing]) -> None:
        await self._deletes.submit([outgoing.pointer for outgoing in batch])
        await publish(self, batch)

    patch(EagerPublisher, "_publish", delete_first)


def _delete_without_confirm(patch: Patch) -> None:
    async def publish(self: EagerPublisher, batch: list[Outgoing]) -> None:
        with suppress(Transient):
            await self._broker.publish(batch[0].route, batch[0].queue, batch)
        self._deletes.post([outgoing.pointer for outgoing in batch], 30, lambda deleted: deleted.exception())

    patch(EagerPublisher, "_publish", publish)


def _without_version(text: str) -> str:
    """A statement without its condition on the version."""
    return text.replace(" AND j.version = r.version", "").replace("j.id, r.version", "j.id, j.version")


def _claim_any_version(patch: Patch) -> None:
    patch(claim, "CLAIM", sa.text(_without_version(claim.CLAIM.text)))


def _fake_claim_any_version(patch: Patch) -> None:
    claim = FakeLedger._claim

    def any_version(self: FakeLedger, request: Any, worker_id: Any) -> Any:
        held = self.jobs.get(request.id)
        if held is not None:
            request = replace(request, version=held.version)
        return claim(self, request, worker_id)

    patch(FakeLedger, "_claim", any_version)


def _ack_before_claim(patch: Patch) -> None:
    take = Runner._take

    async def ack_first(self: Runner, delivery: Any, pointer: Pointer) -> Any:
        await delivery.ack()
        return await take(self, delivery, pointer)

    patch(Runner, "_take", ack_first)


def _reap_live_leases(patch: Patch) -> None:
    patch(apply, "APPLY", sa.text(apply.APPLY.text.replace(f" AND {apply._MAY_END}", "")))
    patch(ledger, "EXPIRED_LEASES", sa.text(ledger.EXPIRED_LEASES.text.replace(" AND lease_until < now()", "")))


def _fake_reap_live_leases(patch: Patch) -> None:
    expired, apply = FakeLedger.expired_leases, FakeLedger._apply

    async def every_lease(self: FakeLedger, limit: int, timeout: float = 1) -> Any:
        now, self.clock = self.clock, float("inf")
        found = await expired(self, limit, timeout)
        self.clock = now
        return found

    def without_lease_check(self: FakeLedger, transition: Any) -> Any:
        now, self.clock = self.clock, float("inf")
        step = apply(self, transition)
        self.clock = now
        return step

    patch(FakeLedger, "expired_leases", every_lease)
    patch(FakeLedger, "_apply", without_lease_check)


def _reap_live_workers(patch: Patch) -> None:
    patch(apply, "APPLY", sa.text(apply.APPLY.text.replace(is_free("j.worker_id"), "true")))
    patch(ledger, "ORPHANS", sa.text(ledger.ORPHANS.text.replace(f" AND worker_id <> ALL ({HELD_WORKERS})", "")))


def _fake_reap_live_workers(patch: Patch) -> None:
    patch(FakeLedger, "is_orphan", lambda self, id_: True)


def _cache_last_write(patch: Patch) -> None:
    text = status_cache._WRITE
    start = text.index("if not held")
    patch(status_cache, "_WRITE", text[:start] + "if true then" + text[text.index("then", start) + 4 :])


def _fake_cache_last_write(patch: Patch) -> None:
    async def write(self: FakeCache, entries: Sequence[Any], timeout: float = 1) -> list[None]:
        self.values.update({new.id: new for new in entries})
        return [None] * len(entries)

    patch(FakeCache, "write", write)


def _requeue_any_version(patch: Patch) -> None:
    patch(dead_letters, "REQUEUE", sa.text(_without_version(dead_letters.REQUEUE.text)))


def _fake_requeue_any_version(patch: Patch) -> None:
    requeue = FakeLedger._requeue

    def any_version(self: FakeLedger, letter: Pointer) -> bool:
        return requeue(self, Pointer(letter.id, self.jobs[letter.id].version))

    patch(FakeLedger, "_requeue", any_version)


def _resolve_all_as_winners(patch: Patch) -> None:
    def settle(self: Any, result: Any, twin_result: Any) -> None:
        for future, _ in self.callers:
            if not future.done():
                future.set_result(result)

    patch(batching._Entry, "settle", settle)


def _never_sweep(patch: Patch) -> None:
    async def sweep_nothing(self: Sweeper, now: float | None = None) -> int:
        return 0

    patch(Sweeper, "sweep_once", sweep_nothing)


def _retry_at_most_once(patch: Patch) -> None:
    decide = decision.decide

    def decide_at_least_once(job: Any, *arguments: Any, **named: Any) -> Any:
        return decide(replace(job, delivery=Delivery.AT_LEAST_ONCE), *arguments, **named)

    patch(transitions, "decide", decide_at_least_once)


def _apply_to_any_claim(patch: Patch) -> None:
    text = apply.APPLY.text.replace(" AND j.version = r.version AND j.claim_token = r.token", "")
    patch(apply, "APPLY", sa.text(text.replace(" AND j.version = held.version", "")))


def _fake_apply_to_any_claim(patch: Patch) -> None:
    apply = FakeLedger._apply

    def unfenced(self: FakeLedger, transition: Any) -> Any:
        job = self.jobs[transition.id]
        return apply(self, replace(transition, version=job.version, token=job.token))

    patch(FakeLedger, "_apply", unfenced)


def _no_callback_of_late_acceptance(patch: Patch) -> None:
    text = apply.ACCEPT_LATE.text.replace("WHERE callback_url IS NOT NULL", "WHERE false")
    patch(apply, "ACCEPT_LATE", sa.text(text))


def _fake_no_callback_of_late_acceptance(patch: Patch) -> None:
    accept_late = FakeLedger._accept_late

    def without_callback(self: FakeLedger, late: Any) -> Any:
        urls, self.callback_urls = self.callback_urls, {}
        step = accept_late(self, late)
        self.callback_urls = urls
        return step

    patch(FakeLedger, "_accept_late", without_callback)


BUGS: dict[str, Bug] = {
    "outbox deleted before the confirm": Bug(_delete_before_confirm, (simulation.WAITING_JOBS_ARE_QUEUED,)),
    "a nacked pointer is forgotten": Bug(_delete_without_confirm, (simulation.WAITING_JOBS_ARE_QUEUED,)),
    "claim without version": Bug(_claim_any_version, (simulation.FENCED, simulation.LEASED_SEND), _fake_claim_any_version),
    "ack before the claim": Bug(_ack_before_claim, (simulation.WAITING_JOBS_ARE_QUEUED,)),
    "reaper without the lease predicate": Bug(_reap_live_leases, (simulation.LEASED_SEND,), _fake_reap_live_leases),
    "reaper without the workers' locks": Bug(_reap_live_workers, (simulation.LEASED_SEND,), _fake_reap_live_workers),
    "cache without compare-and-set": Bug(_cache_last_write, (simulation.CACHE_FORWARD,), _fake_cache_last_write),
    "requeue without version": Bug(_requeue_any_version, (simulation.FENCED,), _fake_requeue_any_version),
    "no coalescing in a batch": Bug(_resolve_all_as_winners, (simulation.LEASED_SEND,)),
    "sweep missing": Bug(_never_sweep, (simulation.EVERY_JOB_ENDS,)),
    "outcome applied without version and token": Bug(_apply_to_any_claim, (simulation.FENCED,), _fake_apply_to_any_claim),
    "an end without its callback": Bug(
        _no_callback_of_late_acceptance, (simulation.CALLBACK_COMMITTED,), _fake_no_callback_of_late_acceptance
    ),
    "at_most_once tried again": Bug(_retry_at_most_once, (simulation.AT_MOST_ONCE,)),
}
