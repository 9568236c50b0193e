"""Dead letters: requeue and discard. Each change is fenced by the version that was read: no repetition requeues a job twice.

The ledger decides which jobs are dead. The dead queues only show them in the management UI, and are tidied afterwards.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from infra.postgres.dead_letters import DeadLetter, DeadLetterStore, Filter, Requeueable
from infra.postgres.leadership import Leadership
from infra.rabbitmq.dead_queue import DeadQueues, TidyResult
from jobs.model import DEAD_QUEUES, Kind, WorkQueue
from jobs.wire import Pointer

CALL_SECONDS = 10.0
NO_DEADLINE_SECONDS = 1e18


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one batch: the ids that were moved, the last id of its page, and the ids that were left, by reason."""

    moved: list[UUID]
    last: UUID | None
    unconfigured: list[UUID] = field(default_factory=list)
    expired: list[UUID] = field(default_factory=list)


class DeadLetters:
    """Requeues and discards dead letters. `deadlines`: in seconds, by the logical name of each configured work queue."""

    def __init__(self, store: DeadLetterStore, deadlines: Mapping[str, float]):
        self._store = store
        self._deadlines = deadlines

    async def requeue(
        self, filter_: Filter, after: UUID, limit: int, provider: str | None = None, *, extend: bool = False, skip: bool = False
    ) -> BatchResult:
        """Requeue the next `limit` that match the filter; messages for `provider`, or None: for their own.

        Letters of unconfigured providers are left. Letters past their deadline are left, unless `extend` renews it. With
        `skip` they do not count towards `limit`, and the result names at most `limit` of them.
        """
        deadlines = self._deadlines_of(extend)
        if skip:
            eligible = await self.requeueable(filter_, after, limit, provider, extend=extend)
            others = Requeueable(deadlines, provider, negated=True)
            page = await self._store.page(filter_, after, limit, CALL_SECONDS, others)
        else:
            page = await self._store.page(filter_, after, limit, CALL_SECONDS)
            eligible = [each for each in page if each.age_seconds <= deadlines.get(_target(each, provider).name, float("-inf"))]
        targets = {letter.id: (letter, _target(letter, provider)) for letter in eligible}
        moved = await self._store.requeue(list(targets.values()), CALL_SECONDS) if targets else set()
        result = BatchResult([id_ for id_ in targets if id_ in moved], page[-1].id if page else None)
        for letter in page:
            if letter.id not in targets:
                is_configured = _target(letter, provider).name in self._deadlines
                (result.expired if is_configured else result.unconfigured).append(letter.id)
        return result

    async def requeueable(
        self, filter_: Filter, after: UUID, limit: int, provider: str | None = None, *, extend: bool = False
    ) -> list[DeadLetter]:
        """The first `limit` that match the filter and can be requeued."""
        return await self._store.page(filter_, after, limit, CALL_SECONDS, Requeueable(self._deadlines_of(extend), provider))

    async def discard(self, filter_: Filter, after: UUID, limit: int) -> BatchResult:
        """Discard the next `limit` that match the filter."""
        letters = await self._store.page(filter_, after, limit, CALL_SECONDS)
        moved = await self._store.discard(letters, CALL_SECONDS) if letters else set()
        return BatchResult([letter.id for letter in letters if letter.id in moved], letters[-1].id if letters else None)

    def _deadlines_of(self, extend: bool) -> Mapping[str, float]:
        return dict.fromkeys(self._deadlines, NO_DEADLINE_SECONDS) if extend else self._deadlines


def _target(letter: DeadLetter, provider: str | None) -> WorkQueue:
    return letter.queue if provider is None or letter.provider is None else replace(letter.queue, provider=provider)


class Tidier:
    """Removes stale copies from the dead queues. `lock`: one process tidies at a time."""

    def __init__(self, store: DeadLetterStore, queues: DeadQueues, lock: Leadership):
        self._store = store
        self._queues = queues
        self._lock = lock

    async def tidy(self, kinds: Iterable[Kind] = Kind, *, drop_undecodable: bool = False) -> dict[str, TidyResult] | None:
        """Remove stale copies; returns the results by logical queue. None: another process is tidying."""
        if not await self._lock.held():
            return None
        try:
            return {
                queue: await self._queues.tidy(queue, self._stale, drop_undecodable=drop_undecodable)
                for queue in (DEAD_QUEUES[kind] for kind in kinds)
            }
        finally:
            await self._lock.release()

    async def _stale(self, copies: Sequence[Pointer]) -> set[Pointer]:
        await self._lock.held()  # keeps the lock's session alive
        return await self._store.stale(copies, CALL_SECONDS)
