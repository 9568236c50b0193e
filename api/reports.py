"""The report within the request: the API reads and counts every post while the client waits."""

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from api.answers import as_json
from api.problems import Problem
from api.shapes import TotalsOut
from infra.postgres.errors import DeadlinePassed
from infra.postgres.pool import DatabasePool
from infra.postgres.posts import texts
from jobs.words import total_words

AT_ONCE = 2  # concurrent reports, the threads of their pool: counting takes processor time from all other requests
WAITING = 20  # further requests that may wait
SECONDS = 30.0  # for one request, its wait included


class ReportEndpoints:
    """`GET /api/1.0/report/posts`. Limits bound the concurrent reports, the waiting requests, and the time of each."""

    def __init__(self, pool: DatabasePool, *, seconds: float = SECONDS):
        self._pool = pool
        self._seconds = seconds
        self._requests = 0

    async def report(self, request: Request) -> Response:
        if self._requests >= AT_ONCE + WAITING:
            raise _unavailable("busy", "Too many reports are being computed.", "5")
        self._requests += 1
        try:
            totals = await self._pool.call(_totals, self._seconds)
        except DeadlinePassed as error:
            detail = f"The report took more than {self._seconds:g} s. There are too many posts, or the database is slow."
            raise _unavailable("too_slow", detail, "60") from error
        finally:
            self._requests -= 1
        answer: TotalsOut = {"data": [{"user_id": user, "total_words": words} for user, words in totals.items()]}
        return as_json(answer)


def _unavailable(code: str, why: str, retry_after: str) -> Problem:
    hint = "POST /api/2.0/report/posts computes the same report as a job, without a limit."
    headers = {"Retry-After": retry_after, "Link": '</api/2.0/report/posts>; rel="alternate"'}
    return Problem(503, code, f"{why} {hint}", headers=headers)


def _totals(connection: sa.Connection) -> dict[int, int]:
    return total_words(texts(connection))
