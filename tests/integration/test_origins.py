"""The API's own answers to browser requests from foreign pages."""

from typing import Any

from infra.keys import Scope, new_key
from infra.postgres.api_keys import ApiKeyStore
from infra.postgres.pool import DatabasePool
from tests.support.asgi import api, call, started
from tests.support.services import Services
from tests.support.waiting import eventually

JOBS = "/api/2.0/report/jobs"
REPORTS = "/api/2.0/report/posts"


async def test_an_open_api_refuses_foreign_names_and_a_keyed_one_foreign_pages(
    services: Services, database: str, broker_namespace: str
) -> None:
    app = api(services, database, broker_namespace, allowed_hosts=[])
    pool, key = DatabasePool(database, name="test", threads=1), new_key()
    book, bearer = ApiKeyStore(pool), {"Authorization": f"Bearer {key.key}"}

    async def answer(**headers: str) -> Any:
        return await call(app, JOBS, headers=headers)

    async with started(app):
        await eventually(answer, lambda answer: answer[0] == 200)
        status, problem = await answer(host="evil.example:9006")
        assert (status, problem["code"]) == (421, "unknown_host")
        assert problem["request_id"] and "POSTHASTE_ALLOWED_HOSTS" in problem["detail"]
        status, problem = await call(app, REPORTS, "POST", {"Origin": "http://evil.example"})
        assert (status, problem["code"]) == (403, "cross_site")
        await book.create_client("shop", 5)
        await book.create_key("shop", key, [Scope.REPORTS], None, 5)
        await eventually(answer, lambda answer: answer[0] == 401)
        assert (await answer(host="proxy.example", **bearer))[0] == 200
        assert (await call(app, REPORTS, "POST", {"Sec-Fetch-Site": "cross-site", **bearer}))[0] == 403
        assert (await call(app, JOBS, headers=bearer))[1]["data"] == []  # no foreign page has submitted a report
    pool.close()


async def test_listed_names_pass_without_keys(services: Services, database: str, broker_namespace: str) -> None:
    app = api(services, database, broker_namespace, allowed_hosts=["posthaste.example"])
    async with started(app):
        for host, status in (("posthaste.example", 200), ("other.example", 421)):
            assert (await call(app, "/version", headers={"host": host}))[0] == status
