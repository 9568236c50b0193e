"""The transition table keeps its promises."""

from jobs.lifecycle import ENDS, TRANSITIONS, Cause, Status, allowed, has_exit, sources


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
    assert not allowed(Status.PROCESSING, Status.CANCELED, Cause.CANCEL)
    assert allowed(Status.RETRYING, Status.CANCELED, Cause.CANCEL)
