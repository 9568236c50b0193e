"""The worker's lock: without it nothing is claimed and nothing starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from consumers.worker_lock import LockLost, WorkerLock
from infra.postgres.transitions.claim import ClaimRequest
from jobs.model import Claimed
from tests.support.factories import claim_request, new_id


@dataclass
class Session:
    """A lock session. `answer`: of the next heartbeat, or its error; `claims`: the number of batches."""

    answer: bool | Exception = True
    now: float = 0.0
    claims: int = 0

    def __post_init__(self) -> None:
        self.lock = WorkerLock(self.held, self.claim, grace_seconds=2.0, monotonic=lambda: self.now)

    async def held(self) -> bool:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def claim(self, requests: Sequence[ClaimRequest], timeout: float) -> list[Claimed | None]:
        self.claims += 1
        return [None] * len(requests)

    async def beat(self, now: float, answer: bool | Exception = True) -> None:
        self.now, self.answer = now, answer
        await self.lock.beat()


REQUESTS = [claim_request(new_id())]


async def test_a_worker_claims_while_it_holds_its_lock() -> None:
    session = Session()
    with pytest.raises(LockLost):
        await session.lock.claim(REQUESTS, 1.0)
    await session.beat(1.0)
    assert await session.lock.claim(REQUESTS, 1.0) == [None]
    for lost in (False, LockLost("the connection is gone")):
        with pytest.raises(LockLost):
            await session.beat(2.0, lost)
        with pytest.raises(LockLost):
            await session.lock.claim(REQUESTS, 1.0)
        assert not session.lock.covers(1.0)
        await session.beat(2.1)
        await session.lock.claim(REQUESTS, 1.0)
    assert session.claims == 3


async def test_the_first_lock_covers_a_claim_that_waited_for_it() -> None:
    session = Session()
    await session.beat(5.0)
    assert session.lock.covers(1.0)


async def test_a_lock_that_was_lost_for_less_than_the_grace_covers_earlier_claims() -> None:
    session = Session()
    await session.beat(1.0)
    with pytest.raises(LockLost):
        await session.beat(2.0, LockLost("the connection is gone"))
    await session.beat(3.0)
    assert session.lock.covers(1.5)


async def test_a_lock_that_may_have_been_free_for_the_grace_covers_later_claims_only() -> None:
    session = Session()
    await session.beat(1.0)
    await session.beat(3.1)
    assert [session.lock.covers(at) for at in (1.5, 3.0, 3.1)] == [False, False, True]
