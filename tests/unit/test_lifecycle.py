"""The promises of the transition table."""

import re
from pathlib import Path

from jobs.lifecycle import ENDS, TRANSITIONS, Cause, Edge, Status, has_exit, sources

DRAWING = Path(__file__).parents[2] / "docs/lifecycle.md"


def test_only_waiting_jobs_and_dead_letters_can_be_claimed() -> None:
    assert sources(Cause.CLAIM) == {Status.QUEUED, Status.RETRYING, Status.FAILED, Status.UNKNOWN}


def test_every_status_can_be_reached_and_left_or_is_an_end() -> None:
    reached = {edge.target for edge in TRANSITIONS}
    assert reached == set(Status)
    assert {status for status in Status if not has_exit(status)} <= ENDS


def test_a_job_that_ended_for_good_never_moves() -> None:
    for status in (Status.COMPLETED, Status.DELIVERED, Status.CANCELED, Status.EXPIRED, Status.DISCARDED):
        assert not has_exit(status)


def test_work_in_progress_cannot_be_canceled() -> None:
    assert Edge(Status.PROCESSING, Status.CANCELED, Cause.CANCEL) not in TRANSITIONS
    assert Edge(Status.RETRYING, Status.CANCELED, Cause.CANCEL) in TRANSITIONS


def test_the_drawing_is_the_table() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+): (.+)$", DRAWING.read_text("utf-8"), re.MULTILINE)
    assert len(drawn) == len(set(drawn))
    assert {Edge(Status(source), Status(target), Cause(cause)) for source, target, cause in drawn} == TRANSITIONS
