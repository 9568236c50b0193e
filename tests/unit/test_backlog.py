"""A client's backlog is bounded by a counter: admissions raise it, and counts correct it."""

from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from infra.postgres.errors import Unavailable
from service.backlog import STALE_SECONDS, BacklogFull, BacklogLimit, correct_count


@dataclass
class Ledger:
    """Answers counts by client: a number or an error; each count takes `seconds` of the clock."""

    counts: dict[str, int | Exception] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    counted: list[str] = field(default_factory=list)
    now: float = 1000.0

    async def waiting(self, client_id: str, most: int, timeout: float) -> int:
        self.counted.append(client_id)
        self.now += self.seconds.get(client_id, 0.0)
        answer = self.counts.get(client_id, 0)
        if isinstance(answer, Exception):
            raise answer
        return min(answer, most)

    def limit(self, high: int, low: int = 0) -> BacklogLimit:
        return BacklogLimit(self.waiting, high=high, low=low, monotonic=lambda: self.now)


def _submit(limit: BacklogLimit, count: int = 1, client_id: str = "shop") -> None:
    for _ in range(count):
        with limit.admission(client_id):
            pass


def _is_open(limit: BacklogLimit, client_id: str = "shop") -> bool:
    try:
        _submit(limit, 1, client_id)
    except BacklogFull:
        return False
    return True


async def test_jobs_admitted_while_they_are_counted_are_not_lost() -> None:
    async def count(client_id: str, most: int, timeout: float) -> int:
        _submit(limit)  # too late for the count
        return 1

    limit = BacklogLimit(count, high=3, low=0)
    _submit(limit)
    await limit.refresh()
    _submit(limit)
    assert not _is_open(limit)


async def test_jobs_that_are_being_committed_while_they_are_counted_are_not_lost() -> None:
    ledger = Ledger({"shop": 0})
    limit = ledger.limit(high=3)
    with ExitStack() as commits:
        for _ in range(2):
            commits.enter_context(limit.admission("shop"))
        await limit.refresh()
    _submit(limit)
    assert not _is_open(limit)


async def test_a_count_lowers_the_number_by_what_has_been_done() -> None:
    ledger = Ledger({"shop": 1})
    limit = ledger.limit(high=4, low=1)
    _submit(limit, 4)
    assert not _is_open(limit)
    await limit.refresh()
    assert _is_open(limit)


@pytest.mark.parametrize(
    ("count", "counted", "uncertain", "expected"),
    [(5, 5, 0, 5), (5, 2, 0, 2), (5, 9, 0, 9), (5, 4, 1, 5), (5, 3, 1, 4), (5, 6, 3, 6), (0, 7, 2, 7), (9, 0, 4, 4)],
)
def test_a_count_corrects_the_backlog_within_its_uncertainty(count: int, counted: int, uncertain: int, expected: int) -> None:
    assert correct_count(count, counted, uncertain) == expected


async def test_a_count_that_fails_keeps_no_other_client_from_being_counted() -> None:
    ledger = Ledger({"ill": Unavailable("no answer"), "well": 0})
    limit = ledger.limit(high=3)
    for client_id in ("ill", "well"):
        _submit(limit, 3, client_id)
    await limit.refresh()
    assert (_is_open(limit, "ill"), _is_open(limit, "well")) == (False, True)


async def test_a_slow_count_delays_no_other_clients_next_one() -> None:
    ledger = Ledger(seconds={"slow": 1.0})
    limit = ledger.limit(high=10)
    for client_id in ("slow", "quick"):
        _submit(limit, 1, client_id)
    await limit.refresh()
    ledger.now += 1.0
    await limit.refresh()
    assert ledger.counted == ["slow", "quick", "quick"]
    ledger.now += 20.0
    for client_id in ("slow", "quick"):
        _submit(limit, 1, client_id)
    await limit.refresh()
    assert ledger.counted[-2:] == ["slow", "quick"]


async def test_a_count_that_cannot_be_repeated_is_forgotten() -> None:
    ledger = Ledger({"shop": Unavailable("no answer")})
    limit = ledger.limit(high=4, low=2)
    _submit(limit, 4)
    await limit.refresh()
    assert not _is_open(limit)
    ledger.now += STALE_SECONDS
    await limit.refresh()
    assert _is_open(limit) and _is_open(limit)  # from the low mark to the high one, and no further
    assert not _is_open(limit)
