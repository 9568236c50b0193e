"""Planted bugs: each removes one fence, and a test must find it by the invariant that it violates.

The service has no switch for them: `setattr` plants one in a forked process, a monkeypatch in a test.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import sqlalchemy as sa

from consumers.runner import Runner
from consumers.sweeper import Sweeper
from infra.errors import Transient
from infra.postgres import dead_letters, ledger
from infra.postgres.leadership import HELD_WORKERS, is_free
from infra.postgres.prepared import PreparedStatement
from infra.postgres.transitions import apply, claim
from infra.redis import status_cache
from jobs import decision
from jobs.model import Delivery
from jobs.wire import Pointer
from service import batching, transitions
from service.publishing import EagerPublisher, Outgoing
from tests.chaos import simulation

Patch = Callable[[Any, str, Any], None]


@dataclass(frozen=True)
class Bug:
    """A patch of the service, and the invariants that it violates."""

    plant: Callable[[Patch], None]
    violates: tuple[str, ...]


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


def _change(patch: Patch, module: ModuleType, name: str, change: Callable[[str], str]) -> None:
    """Change the text of a statement. The change must have an effect."""
    statement = getattr(module, name)
    prepared = isinstance(statement, PreparedStatement)
    before = statement.statement.text if prepared else statement.text
    after = change(before)
    assert after != before, name
    patch(module, name, PreparedStatement(after) if prepared else sa.text(after))


def _without_version(text: str) -> str:
    """A statement without its condition on the version."""
    return text.replace(" AND j.version = r.version", "").replace("j.id, r.version", "j.id, j.version")


def _claim_any_version(patch: Patch) -> None:
    _change(patch, claim, "CLAIM", _without_version)


def _ack_before_claim(patch: Patch) -> None:
    take = Runner._take

    async def ack_first(self: Runner, delivery: Any, pointer: Pointer) -> Any:
        await delivery.ack()
        return await take(self, delivery, pointer)

    patch(Runner, "_take", ack_first)


def _reap_live_leases(patch: Patch) -> None:
    _change(patch, apply, "APPLY", lambda text: text.replace(f" AND {apply._MAY_END}", ""))
    _change(patch, ledger, "EXPIRED_LEASES", lambda text: text.replace(" AND lease_until < now()", ""))


def _reap_live_workers(patch: Patch) -> None:
    _change(patch, apply, "APPLY", lambda text: text.replace(is_free("j.worker_id"), "true"))
    _change(patch, ledger, "ORPHANS", lambda text: text.replace(f" AND worker_id <> ALL ({HELD_WORKERS})", ""))


def _cache_last_write(patch: Patch) -> None:
    text = status_cache._WRITE
    start = text.index("if not held")
    patch(status_cache, "_WRITE", text[:start] + "if true then" + text[text.index("then", start) + 4 :])


def _requeue_any_version(patch: Patch) -> None:
    _change(patch, dead_letters, "REQUEUE", _without_version)


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
    fence, version = " AND j.version = r.version AND j.claim_token = r.token", " AND j.version = held.version"
    _change(patch, apply, "APPLY", lambda text: text.replace(fence, "").replace(version, ""))


def _no_callback_of_late_acceptance(patch: Patch) -> None:
    _change(patch, apply, "ACCEPT_LATE", lambda text: text.replace("WHERE callback_url IS NOT NULL", "WHERE false"))


BUGS: dict[str, Bug] = {
    "outbox deleted before the confirm": Bug(_delete_before_confirm, (simulation.WAITING_JOBS_ARE_QUEUED,)),
    "a nacked pointer is forgotten": Bug(_delete_without_confirm, (simulation.WAITING_JOBS_ARE_QUEUED,)),
    "claim without version": Bug(_claim_any_version, (simulation.FENCED, simulation.LEASED_SEND)),
    "ack before the claim": Bug(_ack_before_claim, (simulation.WAITING_JOBS_ARE_QUEUED,)),
    "reaper without the lease predicate": Bug(_reap_live_leases, (simulation.LEASED_SEND,)),
    "reaper without the workers' locks": Bug(_reap_live_workers, (simulation.LEASED_SEND,)),
    "cache without compare-and-set": Bug(_cache_last_write, (simulation.CACHE_FORWARD,)),
    "requeue without version": Bug(_requeue_any_version, (simulation.FENCED,)),
    "no coalescing in a batch": Bug(_resolve_all_as_winners, (simulation.LEASED_SEND,)),
    "sweep missing": Bug(_never_sweep, (simulation.EVERY_JOB_ENDS,)),
    "outcome applied without version and token": Bug(_apply_to_any_claim, (simulation.FENCED,)),
    "an end without its callback": Bug(_no_callback_of_late_acceptance, (simulation.CALLBACK_COMMITTED,)),
    "at_most_once tried again": Bug(_retry_at_most_once, (simulation.AT_MOST_ONCE,)),
}
