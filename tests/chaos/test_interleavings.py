"""Orders of the steps of several processes on Postgres and Redis, with a crash possible between any two.

Hypothesis shrinks a failure to the few steps it needs.
"""

from collections.abc import Callable

import pytest

from tests.chaos.backends import Backend
from tests.chaos.interleavings import explore
from tests.chaos.planted import BUGS
from tests.chaos.simulation import WAITING_JOBS_ARE_QUEUED, Violation


def test_no_order_of_steps_violates_an_invariant(backend: Callable[[], Backend]) -> None:
    explore(backend, examples=60)


def test_the_search_finds_a_planted_bug(backend: Callable[[], Backend], monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS["ack before the claim"].plant(monkeypatch.setattr)
    with pytest.raises(Violation, match=WAITING_JOBS_ARE_QUEUED):
        explore(backend, examples=100, shrink=False)
