"""Dead letters: requeue and discard, for the command and the HTTP routes.

The ledger decides which jobs are dead. The dead queues only show them in the management UI and are tidied afterwards. Every
change is fenced by the version that was read, so a repeated request queues no job twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from infra.postgres.dead_letters import DeadLetter, DeadLetterStore, Filter, Requeueable
from infra.postgres.leadership import Leadership
from infra.rabbitmq.dead_queue import DeadQueues, Looked
from jobs.model import DEAD_QUEUES, Kind, WorkQueue
from jobs.wire import Pointer

CALL_SECONDS = 10.0
NEVER = 1e18  # seconds: a deadline that no job has passed


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a batch: the ids that were moved, those that were left and why, and where to go on."""

    moved: list[UUID]
    last: UUID | None
    unconfigured: list[UUID] = field(default_factory=list)
    expired: list[UUID] = field(default_factory=list)


class DeadLetters:
    """Requeues and discards what the ledger has. `deadlines`: in seconds, by the logical name of each work queue there is."""

    def __init__(self, store: DeadLetterStore, deadlines: Mapping[str, float]):
        self._store = store
        self._deadlines = deadlines

    async def requeue(
        self, filter_: Filter, after: UUID, limit: int, provider: str | None = None, *, extend: bool = False
    ) -> Done:
        """Queue the next `limit` that fit anew: messages for `provider` if it is given, else for their own.

        Left, and named, are those whose provider is not configured; and those that are past their deadline, as nobody may want
        them any more, unless `extend` gives them a new one.
        """
        letters = await self._store.page(filter_, after, limit, CALL_SECONDS)
        bound = [(letter, self._bound_for(letter.queue, provider)) for letter in letters]
        known = [(letter, queue) for letter, queue in bound if queue.name in self._deadlines]
        going = [(letter, queue) for letter, queue in known if extend or letter.age_seconds <= self._deadlines[queue.name]]
        taken = {letter.id for letter, _ in going}
        moved = await self._store.requeue(going, CALL_SECONDS) if going else set()
        return Done(
            [each.id for each in letters if each.id in moved],
            letters[-1].id if letters else None,
            unconfigured=[letter.id for letter, queue in bound if queue.name not in self._deadlines],
            expired=[letter.id for letter, _ in known if letter.id not in taken],
        )

    async def requeue_first(
        self, filter_: Filter, after: UUID, limit: int, provider: str | None = None, *, extend: bool = False
    ) -> Done:
        """Queue the first `limit` anew that can be requeued, wherever they are among those that fit.

        At most `limit` of those that are left are named.
        """
        letters = await self.requeueable(filter_, after, limit, provider, extend=extend)
        going = [(letter, self._bound_for(letter.queue, provider)) for letter in letters]
        moved = await self._store.requeue(going, CALL_SECONDS) if going else set()
        only = self._requeueable(provider, extend=extend, negated=True)
        left = await self._store.page(filter_, after, limit, CALL_SECONDS, only)
        configured = {letter.id for letter in left if self._bound_for(letter.queue, provider).name in self._deadlines}
        return Done(
            [each.id for each in letters if each.id in moved],
            letters[-1].id if letters else None,
            unconfigured=[letter.id for letter in left if letter.id not in configured],
            expired=[letter.id for letter in left if letter.id in configured],
        )

    async def requeueable(
        self, filter_: Filter, after: UUID, limit: int, provider: str | None = None, *, extend: bool = False
    ) -> list[DeadLetter]:
        """The first `limit` that fit and can be requeued."""
        only = self._requeueable(provider, extend=extend, negated=False)
        return await self._store.page(filter_, after, limit, CALL_SECONDS, only)

    def _requeueable(self, provider: str | None, *, extend: bool, negated: bool) -> Requeueable:
        deadlines = dict.fromkeys(self._deadlines, NEVER) if extend else self._deadlines
        return Requeueable(deadlines, provider, negated)

    async def discard(self, filter_: Filter, after: UUID, limit: int) -> Done:
        """End the next `limit` that fit for good."""
        letters = await self._store.page(filter_, after, limit, CALL_SECONDS)
        moved = await self._store.discard(letters, CALL_SECONDS) if letters else set()
        return Done([each.id for each in letters if each.id in moved], letters[-1].id if letters else None)

    @staticmethod
    def _bound_for(queue: WorkQueue, provider: str | None) -> WorkQueue:
        if provider is None or queue.provider is None:
            return queue
        return WorkQueue(queue.kind, provider, queue.priority)


class Tidier:
    """Takes copies out of the dead queues whose jobs have moved on; `lock` lets one do it at a time."""

    def __init__(self, store: DeadLetterStore, queues: DeadQueues, lock: Leadership):
        self._store = store
        self._queues = queues
        self._lock = lock

    async def tidy(self, kinds: Iterable[Kind] = tuple(Kind), *, drop_undecodable: bool = False) -> dict[str, Looked] | None:
        """Take stale copies out of the dead queues: what was found, by queue. None: somebody else is at it."""
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
        await self._lock.held()  # the heartbeat
        return await self._store.stale(copies, CALL_SECONDS)
