"""Liveness, readiness and version. Ready means: a message would be accepted now, which needs Postgres alone."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import as_json

Check = Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class HealthRoutes:
    """`checks` name each dependency and return None where it is well, else what is wrong."""

    postgres: Check
    others: dict[str, Check]
    version: dict[str, str]

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
        checks = {"postgres": self.postgres, **self.others}
        results = await asyncio.gather(*(check() for check in checks.values()))
        wrong = dict(zip(checks, results, strict=True))
        ready = wrong["postgres"] is None
        body = {
            "status": "ready" if ready else "unavailable",
            "checks": {name: "up" if problem is None else problem for name, problem in wrong.items()},
        }
        return as_json(body, 200 if ready else 503, None if ready else {"Retry-After": "1"})

    async def show_version(self, request: Request) -> Response:
        return as_json(self.version)
