"""Readiness names the services that are down, and shows strangers no details."""

from typing import Any

import pytest
from starlette.routing import Route
from structlog.testing import capture_logs

from api.health import HealthEndpoints
from api.shapes import VersionOut
from infra.redis.events import Events
from tests.support.asgi import api, call, started
from tests.support.services import Services
from tests.support.waiting import eventually


async def test_readiness_names_a_task_that_fails(
    services: Services, database: str, broker_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Events) -> None:
        raise RuntimeError("a status of the next release")

    monkeypatch.setattr(Events, "run", fail)
    app = api(services, database, broker_namespace)

    async def ready() -> Any:
        return await call(app, "/health/ready")

    async with started(app):
        status, answer = await eventually(ready, lambda result: result[0] == 200 and result[1]["checks"]["tasks"] != "up")
    assert (status, answer["status"], answer["checks"]["tasks"]) == (200, "ready", "down: events")


async def test_readiness_keeps_the_reason_to_the_log_and_logs_it_once() -> None:
    reasons: list[str | None] = []

    async def postgres() -> str | None:
        return reasons[-1]

    async def well() -> str | None:
        return None

    release: VersionOut = {"name": "posthaste", "version": "1", "schema": "1"}
    ready = Route("/health/ready", HealthEndpoints({"postgres": postgres, "redis": well}, list, release).ready)
    with capture_logs() as logged:
        for reason in ("the first connection", "role secret_role does not exist"):
            reasons.append(reason)
            for _ in range(3):
                status, answer = await call(ready.app, "/health/ready")
                assert (status, answer["checks"]) == (503, {"postgres": "down", "redis": "up", "tasks": "up"})
            reasons.append(None)
            assert (await call(ready.app, "/health/ready"))[0] == 200
    assert [(line["event"], line["log_level"], line.get("reason")) for line in logged] == [
        ("postgres.waiting", "info", "the first connection"),
        ("postgres.up", "info", None),
        ("postgres.down", "warning", "role secret_role does not exist"),
        ("postgres.up", "info", None),
    ]
