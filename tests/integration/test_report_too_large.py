"""`GET /api/1.0/report/posts` on a table that is too large for a request: 503 with a hint to 2.0."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import ASGIApp

from infra.postgres.posts import Posts
from service.post_recipe import Recipe
from service.seeding import seed
from tests.support.asgi import api, call, started
from tests.support.services import Services, sql
from tests.support.waiting import eventually

PATH = "/api/1.0/report/posts"
HINT = "POST /api/2.0/report/posts computes the same report as a job, without a limit."


@pytest.fixture
async def app(services: Services, database: str, broker_namespace: str) -> AsyncIterator[ASGIApp]:
    app = api(services, database, broker_namespace)
    async with started(app):
        await eventually(lambda: call(app, PATH), lambda answer: answer[0] == 200)
        yield app


def _hinted(answer: dict[str, Any], why: str) -> bool:
    return bool(answer["code"] == "too_slow" and answer["detail"] == f"{why} {HINT}")


async def test_a_report_that_takes_too_long_is_refused_at_its_limit_and_frees_its_thread(
    app: ASGIApp, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(database, Recipe(150_000, users=5, min_words=50, max_words=50, seed=1, end=time.time_ns() // 1000), 1)
    with monkeypatch.context() as limited:
        limited.setattr("api.reports.SECONDS", 0.05)
        for _ in range(3):  # more than there are threads
            code, answer = await call(app, PATH)
            why = "The report took more than 0.05 s. There are too many posts, or the database is slow."
            assert code == 503 and _hinted(answer, why), answer
    sql(database, "DELETE FROM posts WHERE id > (SELECT min(id) FROM posts)")
    code, answer = await call(app, PATH)
    assert code == 200 and [row["total_words"] for row in answer["data"]] == [50]


async def test_a_table_that_is_far_too_large_is_refused_before_it_is_read(
    app: ASGIApp, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.reports.MOST_POSTS", 99)
    sql(database, "INSERT INTO posts (user_id, context, created_at) SELECT 1, 'a b', now() FROM generate_series(1, 100)")
    assert await call(app, PATH) == (200, {"data": [{"user_id": 1, "total_words": 200}]})  # without an estimate it is tried
    Posts(database).analyze()
    code, answer = await call(app, PATH)
    assert code == 503 and _hinted(answer, "The table has about 100 posts. A report within the request has 30 s."), answer
