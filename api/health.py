"""Liveness, readiness and version. Ready means: a message would be accepted now, which needs Postgres alone."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import as_json

log = structlog.get_logger()

Check = Callable[[], Awaitable[str | None]]
REQUIRED = "postgres"


@dataclass(frozen=True, slots=True)
class HealthRoutes:
    """`checks` name each dependency and return None where it is well, else what is wrong.

    Anybody may ask. So the answer says `down`, and the log says why. `down_tasks` names the tasks that have failed.
    """

    checks: Mapping[str, Check]
    down_tasks: Callable[[], list[str]]
    version: dict[str, str]
    _logged: set[str] = field(default_factory=set)

    def routes(self) -> list[Route]:
        return [
            Route("/health/live", self.live, methods=["GET"]),
            Route("/health/ready", self.ready, methods=["GET"]),
            Route("/version", self.show_version, methods=["GET"]),
        ]

    async def live(self, request: Request) -> Response:
        return as_json({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """503 only while nothing can be accepted; a missing broker or cache is named, but degrades nothing a client sees."""
        reasons = dict(zip(self.checks, await asyncio.gather(*(check() for check in self.checks.values())), strict=True))
        for name, reason in reasons.items():
            self._log_change(name, reason)
        ready, tasks = reasons[REQUIRED] is None, self.down_tasks()
        body = {
            "status": "ready" if ready else "unavailable",
            "checks": {name: "up" if reason is None else "down" for name, reason in reasons.items()}
            | {"tasks": f"down: {', '.join(tasks)}" if tasks else "up"},
        }
        return as_json(body, 200 if ready else 503, None if ready else {"Retry-After": "1"})

    def _log_change(self, name: str, reason: str | None) -> None:
        """One line when a dependency goes down, one when it is up again."""
        if reason is not None and name not in self._logged:
            self._logged.add(name)
            log.warning("health.down", check=name, reason=reason)
        elif reason is None and name in self._logged:
            self._logged.remove(name)
            log.info("health.up", check=name)

    async def show_version(self, request: Request) -> Response:
        return as_json(self.version)
