"""Dead letters: requeue and discard, for the command and the HTTP routes.

The ledger decides which jobs are dead. The dead queues only show them in the management UI, and are tidied afterwards. Each
change is fenced by the version that was read, so a repeated request requeues no job twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
        self, filter_: Filter, after: UUID, limit: int, provider: str | None = None, *, extend: bool = False
    ) -> BatchResult:
        """Requeue the next `limit` that match the filter; messages for `provider`, or None: for their own.

        Letters of unconfigured providers are left. Letters past their deadline are left, unless `extend` renews it.
        """
        letters = await self._store.page(filter_, after, limit, CALL_SECONDS)
        targets = [(letter, self._target(letter.queue, provider)) for letter in letters]
        configured = [(letter, queue) for letter, queue in targets if queue.name in self._deadlines]
        eligible = [
            (letter, queue) for letter, queue in configured if extend or letter.age_seconds <= self._deadlines[queue.name]
        ]
        eligible_ids = {letter.id for letter, _ in eligible}
        moved = await self._store.requeue(eligible, CALL_SECONDS) if eligible else set()
        return BatchResult(
            [letter.id for letter in letters if letter.id in moved],
            letters[-1].id if letters else None,
            unconfigured=[letter.id for letter, queue in targets if queue.name not in self._deadlines],
            expired=[letter.id for letter, _ in configured if letter.id not in eligible_ids],
        )

    async def requeue_first(
        self, filter_: Filter, after: UUID, limit: int, provider: str | None = None, *, extend: bool = False
    ) -> BatchResult:
        """Requeue the first `limit` that match the filter and can be requeued.

        The result names at most `limit` of the letters that are left.
        """
        letters = await self.requeueable(filter_, after, limit, provider, extend=extend)
        targets = [(letter, self._target(letter.queue, provider)) for letter in letters]
        moved = await self._store.requeue(targets, CALL_SECONDS) if targets else set()
        condition = self._requeueable(provider, extend=extend, negated=True)
        others = await self._store.page(filter_, after, limit, CALL_SECONDS, condition)
        configured = {letter.id for letter in others if self._target(letter.queue, provider).name in self._deadlines}
        return BatchResult(
            [letter.id for letter in letters if letter.id in moved],
            letters[-1].id if letters else None,
            unconfigured=[letter.id for letter in others if letter.id not in configured],
            expired=[letter.id for letter in others if letter.id in configured],
        )

    async def requeueable(
        self, filter_: Filter, after: UUID, limit: int, provider: str | None = None, *, extend: bool = False
    ) -> list[DeadLetter]:
        """The first `limit` that match the filter and can be requeued."""
        condition = self._requeueable(provider, extend=extend, negated=False)
        return await self._store.page(filter_, after, limit, CALL_SECONDS, condition)

    def _requeueable(self, provider: str | None, *, extend: bool, negated: bool) -> Requeueable:
        deadlines = dict.fromkeys(self._deadlines, NO_DEADLINE_SECONDS) if extend else self._deadlines
        return Requeueable(deadlines, provider, negated)

    async def discard(self, filter_: Filter, after: UUID, limit: int) -> BatchResult:
        """Discard the next `limit` that match the filter."""
        letters = await self._store.page(filter_, after, limit, CALL_SECONDS)
        moved = await self._store.discard(letters, CALL_SECONDS) if letters else set()
        return BatchResult([letter.id for letter in letters if letter.id in moved], letters[-1].id if letters else None)

    @staticmethod
    def _target(queue: WorkQueue, provider: str | None) -> WorkQueue:
        if provider is None or queue.provider is None:
            return queue
        return WorkQueue(queue.kind, provider, queue.priority)


class Tidier:
    """Removes stale copies from the dead queues. `lock`: one process tidies at a time."""

    def __init__(self, store: DeadLetterStore, queues: DeadQueues, lock: Leadership):
        self._store = store
        self._queues = queues
        self._lock = lock

    async def tidy(
        self, kinds: Iterable[Kind] = tuple(Kind), *, drop_undecodable: bool = False
    ) -> dict[str, TidyResult] | None:
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
