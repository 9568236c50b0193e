"""The page of canaries judges no job of another client."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
from starlette.requests import Request

from api.callers import Caller
from api.console.assets import load_assets
from api.console.bulk import BulkPages
from api.console.pages import Pages
from api.console.sessions import Viewer
from infra.keys import Scope
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus
from tests.support.factories import new_id


class Jobs:
    """A ledger with one job in each of these statuses, all of the client `shop`."""

    def __init__(self, *statuses: Status):
        known = (KnownStatus(new_id(), 4, status, Kind.MESSAGE, "shop", 0.0) for status in statuses)
        self.states = {state.id: state for state in known}

    async def statuses(self, ids: Sequence[UUID], timeout: float) -> list[KnownStatus | None]:
        return [self.states.get(id_) for id_ in ids]


async def _watched(jobs: Any, client: str, scope: Scope) -> str:
    """The page of the canaries with the ids of all jobs."""
    caller = Caller(client, frozenset({scope}), "ph_x")
    query = urlencode({"ids": " ".join(map(str, jobs.states)), "total": "2"}).encode()
    request = Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/console/dead-letters/canaries",
            "query_string": query,
            "headers": [(b"host", b"localhost")],
            "posthaste.caller": caller,
            "posthaste.viewer": Viewer(caller, "token"),
            "posthaste.form_token": "token",
        }
    )
    nothing: Any = None
    bulk = BulkPages(Pages(load_assets(), []), nothing, nothing, jobs, ["sandbox"])
    return bytes((await bulk.watch(request)).body).decode()


@pytest.mark.parametrize("status", [Status.SENT, Status.QUEUED, Status.FAILED])
async def test_the_status_of_another_clients_job_is_not_shown(status: Status) -> None:
    assert "0 of 1 canaries succeeded" in await _watched(Jobs(status), "bank", Scope.DEAD_LETTERS)


async def test_the_own_jobs_and_those_of_all_clients_for_an_admin_are_judged() -> None:
    jobs = Jobs(Status.SENT)
    for client, scope in (("shop", Scope.DEAD_LETTERS), ("bank", Scope.ADMIN)):
        assert "1 of 1 canaries succeeded" in await _watched(jobs, client, scope)
