"""The request log of a whole API: the route's template instead of the path, the client, the id of the answer."""

from structlog.testing import capture_logs

from tests.support.asgi import api, call, started
from tests.support.factories import new_id
from tests.support.services import Services
from tests.support.waiting import eventually


async def test_each_request_is_logged_under_its_route(services: Services, database: str, broker_namespace: str) -> None:
    app = api(services, database, broker_namespace, log_level="debug")
    async with started(app):
        await eventually(lambda: call(app, "/messages"), lambda answer: answer[0] == 200)
        with capture_logs() as lines:
            await call(app, f"/messages/{new_id()}")
            await call(app, "/messages", "PUT", {"X-Request-ID": "mine"})
            await call(app, f"/nowhere/{new_id()}")
            await call(app, "/version", headers={"host": "evil.example"})
    answered = [line for line in lines if line["event"] == "request.answered"]
    assert [(line["method"], line["route"], line["status"], line["client"]) for line in answered] == [
        ("GET", "/messages/{id}", 404, "default"),
        ("PUT", "/messages", 405, None),
        ("GET", None, 404, None),
        ("GET", None, 421, None),
    ]
    assert answered[1]["request_id"] == "mine" and all(line["duration_ms"] >= 0 for line in answered)
