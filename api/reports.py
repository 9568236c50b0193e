"""The report within the request: every post is read and counted while the client waits."""

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import as_json
from api.problems import Problem
from infra.postgres.errors import DeadlinePassed
from infra.postgres.pool import DatabasePool
from infra.postgres.posts import texts
from jobs.words import total_words

AT_ONCE = 2  # reports counted at the same time, the threads of their pool: counting takes the processor from all other requests
WAITING = 20  # requests that may wait for their turn
SECONDS = 30.0  # for one request, its waiting included


class ReportRoutes:
    """`GET /api/1.0/report/posts`, bounded in how many run at once, how many wait, and how long each takes."""

    def __init__(self, pool: DatabasePool, *, seconds: float = SECONDS):
        self._pool = pool
        self._seconds = seconds
        self._asked = 0

    def routes(self) -> list[Route]:
        return [Route("/api/1.0/report/posts", self.report, methods=["GET"])]

    async def report(self, request: Request) -> Response:
        if self._asked >= AT_ONCE + WAITING:
            raise _not_within_a_request("busy", "Too many reports are being computed.", "5")
        self._asked += 1
        try:
            totals = await self._pool.call(_totals, self._seconds)
        except DeadlinePassed as error:
            detail = f"The report was not done within {self._seconds:g} s: too many posts for one request, or a slow database."
            raise _not_within_a_request("too_slow", detail, "60") from error
        finally:
            self._asked -= 1
        return as_json({"data": [{"user_id": user, "total_words": words} for user, words in totals.items()]})


def _not_within_a_request(code: str, why: str, retry_after: str) -> Problem:
    hint = "POST /api/2.0/report/posts does the same work as a job, without a limit."
    headers = {"Retry-After": retry_after, "Link": '</api/2.0/report/posts>; rel="alternate"'}
    return Problem(503, code, f"{why} {hint}", headers=headers)


def _totals(connection: sa.Connection) -> dict[int, int]:
    return total_words(texts(connection))
