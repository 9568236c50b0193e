"""A ledger on the test's own database, and its usual first calls."""

from dataclasses import dataclass

from infra.postgres.ledger import Ledger
from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.accept import Accepted
from jobs.decision import decide
from jobs.model import Claimed, NewJob, Transition
from jobs.outcome import Outcome
from jobs.retry import RetryPolicy
from tests.support.factories import claim_request, message
from tests.support.proxy import Proxy
from tests.support.services import sql

SECONDS = 5.0


@dataclass
class Store:
    """A ledger and its pool."""

    ledger: Ledger
    pool: DatabasePool
    database: str

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement on a direct connection."""
        return sql(self.database, statement)


@dataclass
class ProxiedStore(Store):
    """A ledger behind a proxy that can break its connections; `rows` bypasses the proxy."""

    proxy: Proxy


async def accept_one(ledger: Ledger, new: NewJob) -> Accepted:
    (accepted,) = await ledger.accept([new], SECONDS)
    assert isinstance(accepted, Accepted)
    return accepted


async def claim_new(ledger: Ledger, lease: float = 60.0) -> Claimed:
    """Accept a message and claim it."""
    accepted = await accept_one(ledger, message(body="a body"))
    (job,) = await ledger.claim([claim_request(accepted.id, lease=lease)], SECONDS)
    assert job is not None
    return job


def decide_outcome(job: Claimed, outcome: Outcome) -> Transition:
    return decide(job, outcome, RetryPolicy(attempts=3), ran_seconds=0.1, jitter=0.5)
