"""The sweep finds jobs that wait without a message, and only those."""

import pytest

from consumers.sweeper import Sweeper
from infra.postgres import sweep
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Outbox
from infra.postgres.sweep import Sweep
from jobs.model import message_queue
from jobs.wire import Pointer
from tests.integration.conftest import Hurt
from tests.making import claim_request, message

QUEUE = message_queue("sandbox")


class Broker:
    """Queues that show so many ready messages."""

    def __init__(self, ready: int):
        self.ready = ready

    async def ready_messages(self, queue: str) -> int:
        return self.ready


async def _accept(hurt: Hurt, due_seconds_ago: int, *, lost: bool = True) -> Pointer:
    """A job that became due so long ago; with its message (and so its outbox row) lost, or still in the outbox."""
    new = message()
    await Ledger(hurt.lane, grace_seconds=0).accept([new], 5)
    hurt.rows(f"UPDATE jobs SET due_at = now() - interval '{due_seconds_ago} s' WHERE id = '{new.id}'")
    if lost:
        await Outbox(hurt.lane).delete([Pointer(new.id, 1)], 5)
    return Pointer(new.id, 1)


def _outbox(hurt: Hurt) -> set[str]:
    return {str(row[0]) for row in hurt.rows("SELECT job_id FROM outbox")}


async def _requeue(hurt: Hurt, older: float = 30.0) -> int:
    return await Sweep(hurt.lane).requeue(QUEUE, older_seconds=older, before=None, timeout=5)


async def test_only_jobs_that_wait_for_long_without_a_row_get_one(hurt: Hurt) -> None:
    lost = await _accept(hurt, 40)
    kept = await _accept(hurt, 40, lost=False)
    await _accept(hurt, 10)
    claimed = await _accept(hurt, 40)
    await hurt.ledger.claim([claim_request(claimed.id)], 5)
    assert await _requeue(hurt) == 1
    assert _outbox(hurt) == {str(lost.id), str(kept.id)}
    assert await _requeue(hurt) == 0


async def test_jobs_that_are_still_in_the_outbox_do_not_hide_a_lost_one(hurt: Hurt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BATCH", 2)
    for _ in range(3):
        await _accept(hurt, 90, lost=False)
    lost = await _accept(hurt, 40)
    assert await _requeue(hurt) == 1
    assert str(lost.id) in _outbox(hurt)


async def test_an_empty_queue_is_swept_after_a_while_and_a_full_one_is_not(hurt: Hurt) -> None:
    await _accept(hurt, 100)
    sweeper = Sweeper(Sweep(hurt.lane), Broker(0), [QUEUE], after_seconds=30)
    assert [await sweeper.look(now) for now in (0.0, 10.0, 29.0, 30.0, 31.0)] == [0, 0, 0, 0, 0]
    assert await sweeper.look(36.0) == 1
    full = Sweeper(Sweep(hurt.lane), Broker(5), [QUEUE], after_seconds=30)
    await _accept(hurt, 100)
    assert [await full.look(now) for now in (0.0, 31.0, 62.0, 93.0)] == [0, 0, 0, 0]


async def test_a_job_that_was_overtaken_by_a_minute_is_published_again(hurt: Hurt) -> None:
    overtaken, close = await _accept(hurt, 200), await _accept(hurt, 100)
    working = await _accept(hurt, 90)
    await hurt.ledger.claim([claim_request(working.id)], 5)
    sweeper = Sweeper(Sweep(hurt.lane), Broker(5), [QUEUE], after_seconds=30)
    assert await sweeper.look(0.0) == 1
    assert _outbox(hurt) == {str(overtaken.id)} and str(close.id) not in _outbox(hurt)
