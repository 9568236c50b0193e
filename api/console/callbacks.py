"""The page of callbacks: the hosts that receive them, their failures, and recent deliveries."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS
from api.callers import caller_of
from api.console.pages import Pages
from api.console.sampling import Sample
from infra.keys import Scope
from infra.postgres.conditions import OPERATOR
from infra.postgres.newest import MOST_WAITING, RECENT_JOBS, CallbackRow, NewestReads
from jobs.lifecycle import SUCCESSES, Status
from service.settings_view import masked_url

SHOWN = 100
_DEAD = (Status.FAILED, Status.UNKNOWN)
_SAMPLES = 50  # of clients whose viewers looked lately


@dataclass(slots=True)
class Host:
    """One receiver: its callbacks by state, and its latest failure."""

    name: str
    delivered: int = 0
    waiting: int = 0
    retrying: int = 0
    failed: int = 0
    reason: str | None = None
    failed_at: datetime | None = None

    def add(self, row: CallbackRow) -> None:
        self.delivered += row.status in SUCCESSES
        self.waiting += row.status in (Status.QUEUED, Status.PROCESSING)
        self.retrying += row.status is Status.RETRYING
        self.failed += row.status in _DEAD
        if row.reason and self.reason is None:  # the newest come first
            self.reason, self.failed_at = row.reason, row.finished_at or row.created_at


@dataclass(eq=False)
class CallbackPages:
    """The endpoint of callbacks. `enabled`: signing secrets exist."""

    pages: Pages
    newest: NewestReads
    enabled: bool
    _samples: dict[str | None, Sample[list[CallbackRow]]] = field(default_factory=dict, init=False)

    async def show(self, request: Request) -> Response:
        """The viewer's callbacks; those of all clients for admins."""
        caller = caller_of(request)
        client_id = None if caller.may(Scope.ADMIN) else caller.client_id
        rows = await self._sample(client_id).read()
        dead = sum(row.status in _DEAD for row in rows)
        values: dict[str, Any] = {
            "hosts": hosts(rows),
            "rows": list(map(_masked, rows[:SHOWN])),
            "dead": dead,
            "enabled": self.enabled,
        }
        return self.pages.show(
            request, "callbacks.html", recent=RECENT_JOBS, most=MOST_WAITING, operator=OPERATOR, all=client_id is None, **values
        )

    def _sample(self, client_id: str | None) -> Sample[list[CallbackRow]]:
        sample = self._samples.pop(client_id, None) or Sample(lambda: self.newest.callbacks(client_id, READ_SECONDS))
        self._samples[client_id] = sample
        while len(self._samples) > _SAMPLES:
            del self._samples[next(iter(self._samples))]
        return sample


def _masked(row: CallbackRow) -> CallbackRow:
    """The callback as the page shows it. The URL of the operator may contain a secret, as the page of settings knows."""
    return row if row.client_id != OPERATOR else replace(row, destination=masked_url(row.destination, with_path=False))


def hosts(rows: Sequence[CallbackRow]) -> list[Host]:
    """The hosts of these callbacks, those with failures first."""
    found: dict[str, Host] = {}
    for row in rows:
        name = urlsplit(row.destination).netloc.rpartition("@")[2]
        found.setdefault(name, Host(name)).add(row)
    return sorted(found.values(), key=lambda host: (-host.failed - host.retrying, -host.delivered, host.name))
