"""The timeline: the steps of a message's life in order, its waits, and the drawing to scale."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from api.console.timeline import WIDTH, Timeline, draw_timeline
from infra.postgres.job_reads import Attempt, Callback, MessageRecord
from infra.postgres.message_search import Position
from jobs.lifecycle import Status
from jobs.model import Delivery, Priority

BEGIN = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
ID = UUID("0190163d-8694-739b-aea5-966c26f8ad91")


def _at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def _record(status: Status, finished: float | None = None, **fields: Any) -> MessageRecord:
    record = MessageRecord(
        id=ID, status=status, version=3, attempts=1, reason=None, created_at=BEGIN, updated_at=_at(finished or 0),
        finished_at=None if finished is None else _at(finished), destination="+1", provider="sandbox",
        priority=Priority.NORMAL, reference=None, tags=[], body="hello", delivery=Delivery.AT_LEAST_ONCE, metadata=None,
        callback_url=None, provider_message_id=None, next_attempt_at=None,
    )  # fmt: skip
    return MessageRecord(**{**record, **fields})  # type: ignore[typeddict-item]


def _attempt(n: int, ended: float, outcome: str, ran: float | None = 1.0, revision: int = 0, **fields: Any) -> Attempt:
    attempt = Attempt(revision=revision, n=n, outcome=outcome, reason=None, charged=True, provider_code=None,
                      ran_seconds=ran, ended_at=_at(ended))  # fmt: skip
    return Attempt(**{**attempt, **fields})  # type: ignore[typeddict-item]


def _callback(created: float, **fields: Any) -> Callback:
    callback = Callback(id=ID, type="message.failed", sequence=3, url="https://example.com", status=Status.SENT, attempts=1,
                        reason=None, created_at=_at(created), finished_at=None, next_attempt_at=None)  # fmt: skip
    return Callback(**{**callback, **fields})  # type: ignore[typeddict-item]


def _draw(
    record: MessageRecord, *attempts: Attempt, revision: int = 0, queued: float = 0, now: float = 100, **kw: Any
) -> Timeline:
    position = Position("shop", 3, revision, _at(queued), _at(queued))
    return draw_timeline(record, position, attempts, kw.get("callbacks", ()), kw.get("answers", {}), _at(now))


def _titles(timeline: Timeline) -> list[str]:
    return [step.title for step in timeline.steps]


def test_a_sent_message_has_its_attempts_and_waits_to_scale() -> None:
    attempts = (
        _attempt(1, 11, "retryable", provider_code=500, reason="http_500"),
        _attempt(2, 51, "deferred", charged=False),
        _attempt(3, 100, "accepted"),
    )
    timeline = _draw(_record(Status.SENT, 100), *attempts)
    assert _titles(timeline) == ["Accepted", "Attempt 1: retryable", "Attempt 2: deferred", "Attempt 3: accepted", "Sent"]
    assert [step.waited_seconds for step in timeline.steps] == [None, 10, 39, 48, None]
    assert timeline.steps[1].facts == ["http_500", "HTTP 500", "ran 1.0 s"] and "not charged" in timeline.steps[2].facts
    assert [(round(bar.x, 1), round(bar.width, 1)) for bar in timeline.bars] == [(72, 7.2), (360, 7.2), (712.8, 7.2)]
    assert (timeline.begin, timeline.end) == (BEGIN, _at(100))


def test_short_attempts_stay_visible_within_the_drawing() -> None:
    timeline = _draw(_record(Status.SENT, 1000), _attempt(1, 500, "retryable", 0.001), _attempt(2, 1000, "accepted", 0.001))
    assert all(bar.width >= 3 and bar.x + bar.width <= WIDTH for bar in timeline.bars)


def test_the_drawing_of_an_instant_and_of_skewed_clocks_is_finite() -> None:
    timeline = _draw(_record(Status.SENT, 0), _attempt(1, 0, "accepted", 5.0))
    assert [bar.x for bar in timeline.bars] == [0] and timeline.bars[0].width >= 3
    assert timeline.steps[1].waited_seconds == -5


def test_what_is_not_final_grows_until_now() -> None:
    waiting = _draw(_record(Status.QUEUED), now=30)
    assert _titles(waiting) == ["Accepted", "Waits for a worker"] and waiting.steps[1].waited_seconds == 30
    assert waiting.end == _at(30)
    processing = _draw(_record(Status.PROCESSING, updated_at=_at(40)))
    assert _titles(processing) == ["Accepted", "In progress"]
    assert [(bar.x, bar.width, bar.mark) for bar in processing.bars] == [(288, 432, "processing")]
    attempt = _attempt(1, 10, "retryable")
    assert _titles(_draw(_record(Status.RETRYING, next_attempt_at=_at(40)), attempt, now=30))[-1] == "Next attempt"
    assert _titles(_draw(_record(Status.RETRYING, next_attempt_at=_at(20)), attempt, now=30))[-1] == "Waits for a worker"


def test_requeues_separate_revisions_and_only_the_last_instant_is_known() -> None:
    attempts = (_attempt(1, 10, "rejected"), _attempt(1, 30, "rejected", revision=1), _attempt(1, 61, "accepted", revision=2))
    timeline = _draw(_record(Status.SENT, 61), *attempts, revision=2, queued=50, answers={(1, 1): "no such number"})
    assert [step.answer for step in timeline.steps] == [None, None, None, "no such number", None, None, None]
    assert _titles(timeline) == [
        "Accepted", "Attempt 1: rejected", "Requeued, revision 1", "Attempt 1 of revision 1: rejected",
        "Requeued, revision 2", "Attempt 1 of revision 2: accepted", "Sent",
    ]  # fmt: skip
    first, second = timeline.steps[2], timeline.steps[4]
    assert (first.at, second.at) == (None, _at(50))
    assert [timeline.steps[3].waited_seconds, timeline.steps[5].waited_seconds] == [None, 10]
    requeued = _draw(_record(Status.QUEUED), attempts[0], revision=1, queued=50, now=60)
    assert _titles(requeued)[-2:] == ["Requeued, revision 1", "Waits for a worker"]
    assert requeued.steps[-1].waited_seconds == 10


def test_callbacks_stand_at_their_instant() -> None:
    attempts = (_attempt(1, 10, "rejected"), _attempt(1, 60, "accepted", revision=1))
    callbacks = [_callback(10, attempts=3, reason="http_500"), _callback(60)]
    timeline = _draw(_record(Status.SENT, 60), *attempts, revision=1, queued=50, callbacks=callbacks)
    kinds = [title.partition(" ")[0] for title in _titles(timeline)]
    assert kinds == ["Accepted", "Attempt", "Callback", "Requeued,", "Attempt", "Sent", "Callback"]
    assert timeline.steps[2].facts == ["https://example.com", "3 attempts", "http_500"]
    assert "1 attempt" in timeline.steps[-1].facts
    assert timeline.marks == [120, 720]


def test_lost_leases_have_no_duration() -> None:
    timeline = _draw(_record(Status.FAILED, 60, reason="worker_lost"), _attempt(1, 60, "lease_lost", None, charged=False))
    assert timeline.steps[1].title == "Attempt 1: lease lost" and timeline.steps[1].facts == ["not charged"]
    assert timeline.steps[2].facts == ["reason worker_lost"]
