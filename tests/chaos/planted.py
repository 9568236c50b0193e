"""Bugs, each of which breaks one promise: planted by a test into the modules, to see that it is caught.

There is no switch for any of them in the service: a test puts them in with `setattr` (a forked process) or a monkeypatch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from consumers.runner import Execution, Runner
from consumers.sweeper import Sweeper
from infra.postgres import ledger
from infra.postgres.transitions import apply, claim, late, requeue
from infra.redis import status_cache
from jobs import decision
from jobs.model import Delivery
from jobs.wire import Pointer
from service import batching, recording
from service.publishing import EagerPublisher, Outgoing
from tests.chaos import world
from tests.contract.fakes import FakeCache, FakeLedger

Put = Callable[[Any, str, Any], None]


@dataclass(frozen=True)
class Bug:
    """How it is planted into the service, and into the fakes where the fence is theirs; and which invariants notice."""

    plant: Callable[[Put], None]
    breaks: tuple[str, ...]
    plant_fake: Callable[[Put], None] = lambda put: None


def _forget_first(put: Put) -> None:
    publish = EagerPublisher._publish

    async def forgetting(self: EagerPublisher, outgoing: Outgoing) -> None:
        await self._delete_row(outgoing.pointer)
        await publish(self, outgoing)

    put(EagerPublisher, "_publish", forgetting)


def _without_version(text: str) -> str:
    """A statement that takes a job at whatever version it has."""
    return text.replace(" AND j.version = r.version", "").replace("j.id, r.version", "j.id, j.version")


def _claim_any_version(put: Put) -> None:
    put(claim, "CLAIM", sa.text(_without_version(claim.CLAIM.text)))


def _fake_claim_any_version(put: Put) -> None:
    claim = FakeLedger._claim

    def any_version(self: FakeLedger, request: Any) -> Any:
        held = self.jobs.get(request.pointer.id)
        if held is not None:
            request = replace(request, pointer=Pointer(held.id, held.version))
        return claim(self, request)

    put(FakeLedger, "_claim", any_version)


def _ack_first(put: Put) -> None:
    take = Runner._take

    async def acking(self: Runner, execution: Execution) -> Any:
        await execution.delivery.ack()
        return await take(self, execution)

    put(Runner, "_take", acking)


def _reap_the_living(put: Put) -> None:
    put(apply, "APPLY", sa.text(apply.APPLY.text.replace(" AND (NOT r.lost OR j.lease_until < now())", "")))
    put(ledger, "EXPIRED_LEASES", sa.text(ledger.EXPIRED_LEASES.text.replace(" AND lease_until < now()", "")))


def _fake_reap_the_living(put: Put) -> None:
    expired, apply = FakeLedger.expired_leases, FakeLedger._apply

    async def all_of_them(self: FakeLedger, limit: int, timeout: float = 1) -> Any:
        now, self.clock = self.clock, float("inf")
        found = await expired(self, limit, timeout)
        self.clock = now
        return found

    def whatever(self: FakeLedger, transition: Any) -> Any:
        now, self.clock = self.clock, float("inf")
        step = apply(self, transition)
        self.clock = now
        return step

    put(FakeLedger, "expired_leases", all_of_them)
    put(FakeLedger, "_apply", whatever)


def _cache_the_last_to_come(put: Put) -> None:
    text = status_cache._WRITE
    start = text.index("if not held")
    put(status_cache, "_WRITE", text[:start] + "if true then" + text[text.index("then", start) + 4 :])


def _fake_cache_the_last_to_come(put: Put) -> None:
    async def write(self: FakeCache, entries: Sequence[Any], timeout: float = 1) -> list[None]:
        self.values.update({new.id: new for new in entries})
        return [None] * len(entries)

    put(FakeCache, "write", write)


def _requeue_any_version(put: Put) -> None:
    put(requeue, "REQUEUE", sa.text(_without_version(requeue.REQUEUE.text)))


def _fake_requeue_any_version(put: Put) -> None:
    requeue = FakeLedger._requeue

    def any_version(self: FakeLedger, letter: Pointer) -> bool:
        return requeue(self, Pointer(letter.id, self.jobs[letter.id].version))

    put(FakeLedger, "_requeue", any_version)


def _everybody_wins(put: Put) -> None:
    def settle(self: Any, result: Any, twin_result: Any) -> None:
        for future in self.futures:
            if not future.done():
                future.set_result(result)

    put(batching._Entry, "settle", settle)


def _never_sweep(put: Put) -> None:
    async def nothing(self: Sweeper, now: float | None = None) -> int:
        return 0

    put(Sweeper, "sweep_once", nothing)


def _accept_at_most_once_again(put: Put) -> None:
    decide = decision.decide

    def careless(job: Any, *arguments: Any, **named: Any) -> Any:
        return decide(replace(job, delivery=Delivery.AT_LEAST_ONCE), *arguments, **named)

    put(recording, "decide", careless)


def _end_any_claim(put: Put) -> None:
    text = apply.APPLY.text.replace(" AND j.version = r.version AND j.claim_token = r.token", "")
    put(apply, "APPLY", sa.text(text.replace(" AND j.version = held.version", "")))


def _fake_end_any_claim(put: Put) -> None:
    apply = FakeLedger._apply

    def unfenced(self: FakeLedger, transition: Any) -> Any:
        job = self.jobs[transition.id]
        return apply(self, replace(transition, version=job.version, token=job.token))

    put(FakeLedger, "_apply", unfenced)


def _tell_no_late_acceptance(put: Put) -> None:
    put(late, "ACCEPT_LATE", sa.text(late.ACCEPT_LATE.text.replace("WHERE callback_url IS NOT NULL", "WHERE false")))


def _fake_tell_no_late_acceptance(put: Put) -> None:
    accept_late = FakeLedger._accept_late

    def silently(self: FakeLedger, late: Any) -> Any:
        urls, self.callback_urls = self.callback_urls, {}
        step = accept_late(self, late)
        self.callback_urls = urls
        return step

    put(FakeLedger, "_accept_late", silently)


BUGS: dict[str, Bug] = {
    "outbox deleted before the confirm": Bug(_forget_first, (world.ON_ITS_WAY,)),
    "claim without version": Bug(_claim_any_version, (world.FENCED, world.ONE_SEND), _fake_claim_any_version),
    "ack before the claim": Bug(_ack_first, (world.ON_ITS_WAY,)),
    "reaper without the lease predicate": Bug(_reap_the_living, (world.ONE_SEND,), _fake_reap_the_living),
    "cache without compare-and-set": Bug(_cache_the_last_to_come, (world.CACHE_FORWARD,), _fake_cache_the_last_to_come),
    "requeue without version": Bug(_requeue_any_version, (world.FENCED,), _fake_requeue_any_version),
    "no coalescing in a batch": Bug(_everybody_wins, (world.ONE_SEND,)),
    "sweep missing": Bug(_never_sweep, (world.ALL_END,)),
    "outcome applied without version and token": Bug(_end_any_claim, (world.FENCED,), _fake_end_any_claim),
    "an end without its callback": Bug(_tell_no_late_acceptance, (world.TOLD,), _fake_tell_no_late_acceptance),
    "at_most_once tried again": Bug(_accept_at_most_once_again, (world.AT_MOST_ONCE,)),
}
