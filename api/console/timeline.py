"""The life of a message: its steps in words, and its attempts and waits drawn to scale."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from api.console.formats import duration
from infra.postgres.job_reads import Attempt, Callback, MessageRecord
from infra.postgres.message_search import Position
from jobs.lifecycle import ENDS, Status

WIDTH = 720.0
_NARROWEST = 3.0  # of an attempt that is too short for the scale
_ENDS = {each.value for each in ENDS}


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `mark` is the status whose colour it has; `waited_seconds`: between the step before and this one."""

    title: str
    at: datetime | None
    mark: str
    waited_seconds: float | None = None
    facts: list[str] = field(default_factory=list)
    answer: str | None = None  # an excerpt of the provider's answer


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt in the drawing."""

    x: float
    width: float
    mark: str
    label: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """The steps, oldest first, and the drawing from `begin` to `end`. `marks`: the places of callbacks."""

    steps: list[Step]
    bars: list[Bar]
    marks: list[float]
    begin: datetime
    end: datetime


def draw_timeline(
    record: MessageRecord,
    position: Position,
    attempts: Sequence[Attempt],
    callbacks: Sequence[Callback],
    answers: Mapping[tuple[int, int], str],
    now: datetime,
) -> Timeline:
    """The timeline of a message. `answers`: excerpts by revision and number of the attempt.

    `now` ends the drawing of a message without a final status.
    """
    begin = record["created_at"]
    known = [begin, record["updated_at"], *(each["ended_at"] for each in attempts), *(each["created_at"] for each in callbacks)]
    end = max(known) if record["status"] in _ENDS else max(*known, now)
    scale = WIDTH / max((end - begin) / timedelta(seconds=1), 0.001)

    def place(at: datetime) -> float:
        return min(WIDTH, max(0.0, (at - begin) / timedelta(seconds=1) * scale))

    steps = _in_order([*_steps(record, position, attempts, answers, now)], [*map(_callback, callbacks)])
    bars = [_bar(f"Attempt {each['n']}", each["outcome"], place(_started(each)), place(each["ended_at"])) for each in attempts]
    if record["status"] == Status.PROCESSING:
        bars.append(_bar("In progress", record["status"], place(record["updated_at"]), place(end)))
    return Timeline(steps, bars, [place(each["created_at"]) for each in callbacks], begin, end)


def _steps(
    record: MessageRecord,
    position: Position,
    attempts: Sequence[Attempt],
    answers: Mapping[tuple[int, int], str],
    now: datetime,
) -> Iterator[Step]:
    yield Step("Accepted", record["created_at"], "queued")
    free_at: datetime | None = record["created_at"]  # since then the message waits
    revision = 0
    for attempt in attempts:
        for number in range(revision + 1, attempt["revision"] + 1):
            free_at = position.queued_at if number == position.revision else None  # earlier instants are not stored
            yield Step(f"Requeued, revision {number}", free_at, "queued")
        revision = attempt["revision"]
        yield _attempt(attempt, free_at, answers.get((revision, attempt["n"])))
        free_at = attempt["ended_at"]
    for number in range(revision + 1, position.revision + 1):
        free_at = position.queued_at if number == position.revision else None
        yield Step(f"Requeued, revision {number}", free_at, "queued")
    yield from _present(record, free_at, now)


def _attempt(attempt: Attempt, free_at: datetime | None, answer: str | None) -> Step:
    revision = f" of revision {attempt['revision']}" if attempt["revision"] else ""
    facts = [attempt["reason"], f"HTTP {attempt['provider_code']}" if attempt["provider_code"] else None]
    facts.append(None if attempt["charged"] or attempt["outcome"] == "accepted" else "not charged")
    started = _started(attempt)
    waited = None if free_at is None else (started - free_at) / timedelta(seconds=1)
    ran = f"ran {duration(attempt['ran_seconds'])}" if attempt["ran_seconds"] is not None else None
    title = f"Attempt {attempt['n']}{revision}: {attempt['outcome'].replace('_', ' ')}"
    return Step(title, started, attempt["outcome"], waited, [each for each in (*facts, ran) if each], answer)


def _present(record: MessageRecord, free_at: datetime | None, now: datetime) -> Iterator[Step]:
    """The last step: the final status, or the present one."""
    status, reason = record["status"], record["reason"]
    facts = [f"reason {reason}"] if reason else []
    if record["finished_at"] is not None:
        yield Step(status.capitalize(), record["finished_at"], status, None, facts)
    elif status == Status.PROCESSING:
        yield Step("In progress", record["updated_at"], status)
    elif record["next_attempt_at"] is not None and record["next_attempt_at"] > now:
        yield Step("Next attempt", record["next_attempt_at"], status, None, facts)
    else:
        waited = None if free_at is None else max(0.0, (now - free_at) / timedelta(seconds=1))
        yield Step("Waits for a worker", None, status, waited, facts)


def _callback(callback: Callback) -> Step:
    attempts = callback["attempts"]
    facts = [callback["url"], "1 attempt" if attempts == 1 else f"{attempts} attempts", callback["reason"]]
    return Step(f"Callback {callback['type']}: {callback['status']}", callback["created_at"], callback["status"], None,
                [each for each in facts if each])  # fmt: skip


def _in_order(life: Sequence[Step], callbacks: Sequence[Step]) -> list[Step]:
    """Callbacks between the steps of their message, which keep their order whatever the clocks say."""
    keyed: list[tuple[datetime, int, Step]] = []
    for step in life:
        latest = keyed[-1][0] if keyed else datetime.min.replace(tzinfo=UTC)
        keyed.append((max(latest, step.at or latest), len(keyed), step))
    keyed += [(step.at, len(keyed) + n, step) for n, step in enumerate(callbacks) if step.at is not None]
    return [step for _, _, step in sorted(keyed, key=lambda each: each[:2])]


def _started(attempt: Attempt) -> datetime:
    return attempt["ended_at"] - timedelta(seconds=attempt["ran_seconds"] or 0)


def _bar(name: str, mark: str, begin: float, end: float) -> Bar:
    width = max(_NARROWEST, end - begin)
    return Bar(min(begin, WIDTH - width), width, mark, f"{name}: {mark.replace('_', ' ')}")
