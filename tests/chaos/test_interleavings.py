"""Orders of the steps of several processes on Postgres and Redis, with a crash possible between any two.

Hypothesis shrinks a failure to the few steps it needs.
"""

from collections.abc import Callable

from tests.chaos.backends import Backend
from tests.chaos.interleavings import explore


def test_no_order_of_steps_violates_an_invariant(backend: Callable[[], Backend]) -> None:
    explore(backend, examples=100)
