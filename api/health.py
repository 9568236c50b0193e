"""Liveness, readiness and version. A ready API accepts messages, which needs Postgres alone."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.answers import as_json
from api.shapes import LiveOut, ReadyOut, VersionOut

log = structlog.get_logger()

Check = Callable[[], Awaitable[str | None]]
REQUIRED = "postgres"


@dataclass(frozen=True, slots=True)
class HealthEndpoints:
    """`checks` return the reason why a dependency is down, else None. `down_tasks` names the tasks that have failed.

    These endpoints need no key. So the answer says `down`, and only the log has the reason.
    """

    checks: Mapping[str, Check]
    down_tasks: Callable[[], list[str]]
    release: VersionOut
    _down: set[str] = field(default_factory=set)
    _were_up: set[str] = field(default_factory=set)

    async def live(self, request: Request) -> Response:
        answer: LiveOut = {"status": "live"}
        return as_json(answer)

    async def ready(self, request: Request) -> Response:
        """503 while the API accepts nothing. Without broker or cache it still accepts; the answer names them."""
        reasons = dict(zip(self.checks, await asyncio.gather(*(check() for check in self.checks.values())), strict=True))
        for name, reason in reasons.items():
            self._log_change(name, reason)
        ready, tasks = reasons[REQUIRED] is None, self.down_tasks()
        answer: ReadyOut = {
            "status": "ready" if ready else "unavailable",
            "checks": {name: "up" if reason is None else "down" for name, reason in reasons.items()}
            | {"tasks": f"down: {', '.join(tasks)}" if tasks else "up"},
        }
        return as_json(answer, 200 if ready else 503, None if ready else {"Retry-After": "1"})

    def _log_change(self, name: str, reason: str | None) -> None:
        """Log each dependency once when it goes down, and once when it is up again. At the start it is only waited for."""
        if reason is None:
            self._were_up.add(name)
            if name in self._down:
                self._down.remove(name)
                log.info(f"{name}.up")
        elif name not in self._down:
            self._down.add(name)
            if name in self._were_up:
                log.warning(f"{name}.down", reason=reason)
            else:
                log.info(f"{name}.waiting", reason=reason)

    async def version(self, request: Request) -> Response:
        return as_json(self.release)
