"""Canaries are judged by their statuses after the requeue."""

from uuid import uuid4

import pytest

from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus
from service.dead_letters import Canaries


def _state(status: Status) -> KnownStatus:
    return KnownStatus(uuid4(), 4, status, Kind.MESSAGE, "shop", 0.0)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.QUEUED, Canaries(1)),
        (Status.PROCESSING, Canaries(1)),
        (Status.SENT, Canaries(1, succeeded=1)),
        (Status.DELIVERED, Canaries(1, succeeded=1)),
        (Status.COMPLETED, Canaries(1, succeeded=1)),
        (Status.RETRYING, Canaries(1, failed=1)),  # its first new attempt failed
        (Status.FAILED, Canaries(1, failed=1)),
        (Status.UNKNOWN, Canaries(1, failed=1)),
        (Status.DISCARDED, Canaries(1, failed=1)),
    ],
)
def test_each_status_of_a_canary(status: Status, expected: Canaries) -> None:
    assert Canaries.of([_state(status)]) == expected


def test_a_deleted_canary_has_failed() -> None:
    assert Canaries.of([None]) == Canaries(1, failed=1)


def test_canaries_pass_by_their_share() -> None:
    nine_of_ten = Canaries(10, succeeded=9, failed=1)
    assert nine_of_ten.waiting == 0
    assert nine_of_ten.passed(0.9)
    assert not nine_of_ten.passed(0.91)
    assert Canaries(0).passed(1.0)
