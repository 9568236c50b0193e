"""Dead letters: preview, requeue, discard. The version that was read fences each change: no repetition requeues a job twice.

The ledger decides which jobs are dead. The dead queues only show them in the management UI, and are tidied afterwards.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from infra.postgres.dead_letters import BEFORE_ALL, DeadLetter, DeadLetterStore, Filter, Group, Requeueable
from infra.postgres.leadership import Leadership
from infra.rabbitmq.dead_queue import DeadQueues, TidyResult
from jobs.lifecycle import ENDS, SUCCESSES, Status
from jobs.model import DEAD_QUEUES, Kind, KnownStatus, WorkQueue
from jobs.wire import Pointer

CALL_SECONDS = 10.0
NO_DEADLINE_SECONDS = 1e18
PAGE = 500


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one batch: the ids that were moved, the last id of its page, and the ids that were left, by reason."""

    moved: list[UUID]
    last: UUID | None
    unconfigured: list[UUID] = field(default_factory=list)
    expired: list[UUID] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Preview:
    """The letters that match a filter now, by group. `filter` excludes letters that fail later.

    `requeueable`: the number within the deadline of a configured queue; None: nobody needs it.
    """

    filter: Filter
    groups: list[Group]
    requeueable: int | None = None

    @property
    def count(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def unknown(self) -> int:
        """The number of letters that the provider may have accepted."""
        return sum(group.count for group in self.groups if group.status is Status.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Canaries:
    """The letters that are requeued first. A canary whose first new attempt fails has failed."""

    total: int
    succeeded: int = 0
    failed: int = 0

    @classmethod
    def of(cls, states: Sequence[KnownStatus | None]) -> "Canaries":
        """Judge canaries by their present statuses. A deleted one has failed."""
        statuses = [state and state.status for state in states]
        succeeded = sum(status in SUCCESSES for status in statuses)
        over = sum(status is None or status in ENDS or status is Status.RETRYING for status in statuses)
        return cls(len(statuses), succeeded, over - succeeded)

    @property
    def waiting(self) -> int:
        return self.total - self.succeeded - self.failed

    def passed(self, share: float) -> bool:
        return self.succeeded >= share * self.total


class DeadLetters:
    """Previews, requeues and discards. `deadlines`: in seconds, by the logical name of each configured work queue."""

    def __init__(self, store: DeadLetterStore, deadlines: Mapping[str, float]):
        self._store = store
        self._deadlines = deadlines

    async def preview(self, filter_: Filter) -> Preview:
        """Count the matching letters. The bound by Postgres' clock keeps a letter that fails again from a second requeue."""
        now = await self._store.now(CALL_SECONDS)
        bounded = replace(filter_, failed_before=min(filter_.failed_before or now, now))
        return Preview(bounded, await self._store.groups(bounded, CALL_SECONDS))

    async def preview_requeue(self, filter_: Filter, provider: str | None = None, *, extend: bool = False) -> Preview:
        """The same, with the number of letters that can be requeued for `provider`."""
        found = await self.preview(filter_)
        only = Requeueable(self._deadlines_of(extend), provider)
        groups = await self._store.groups(found.filter, CALL_SECONDS, only)
        return replace(found, requeueable=sum(group.count for group in groups))

    async def each(self, filter_: Filter) -> AsyncIterator[DeadLetter]:
        """Every matching letter, by id, read page by page."""
        after = BEFORE_ALL
        while page := await self._store.page(filter_, after, PAGE, CALL_SECONDS):
            for letter in page:
                yield letter
            after = page[-1].id

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
