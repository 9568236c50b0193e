"""The start of an API process, its liveness, readiness and version.

It waits for Postgres, a compatible schema, and the API keys. A ready API accepts messages, which needs Postgres alone.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.answers import as_json
from api.callers import Keyring, NoKeys
from api.shapes import LiveOut, ReadyOut, VersionOut
from infra.monitoring import exposition
from infra.postgres import compatibility
from infra.postgres.pool import DatabasePool
from service.settings import Settings
from service.vitals import Check

log = structlog.get_logger()

REQUIRED = "postgres"
CHECK_SECONDS = 0.8
_NO_KEYS = (
    "There are no API keys, and other machines can reach POSTHASTE_HOST {host}. Create a key (`posthaste clients create NAME`, "
    "then `posthaste keys create NAME`), listen on 127.0.0.1, or set POSTHASTE_AUTH=off."
)


def may_be_open(settings: Settings) -> bool:
    """Whether requests need no key while there is none: authentication is off, or only this machine reaches the API."""
    try:
        return settings.auth == "off" or settings.host == "localhost" or ip_address(settings.host).is_loopback
    except ValueError:  # another host name
        return False


class Startup:
    """`waiting_for` is the reason why the process has not started; "" afterwards. `fatal` ends the process."""

    def __init__(self, pool: DatabasePool, keyring: Keyring, settings: Settings, fatal: Callable[[Exception], None]):
        self._pool = pool
        self._keyring = keyring
        self._settings = settings
        self._fatal = fatal
        self.waiting_for = "the first connection"

    async def run(self) -> None:
        """Return once the process has started, or cannot start."""
        try:
            await compatibility.wait_until_fit(self._pool, self._settings.namespace, self._wait_for)
            await self._require_keys()
        except (compatibility.SchemaTooOld, compatibility.ForeignNamespace, NoKeys) as error:
            self._fatal(error)
        else:
            self._wait_for("")
            log.info("api.ready", host=self._settings.host, port=self._settings.port)

    def _wait_for(self, reason: str) -> None:
        self.waiting_for = reason

    async def _require_keys(self) -> None:
        """Wait until the keyring knows whether there are keys. Raises `NoKeys` without keys, unless the API may be open."""
        while self._keyring.required is None:
            await self._keyring.refresh()
            await asyncio.sleep(0 if self._keyring.required is not None else CHECK_SECONDS)
        if self._keyring.required:
            return
        if not may_be_open(self._settings):
            raise NoKeys(_NO_KEYS.format(host=self._settings.host))
        if self._settings.auth == "auto":
            log.warning("api.open", reason="there are no keys", effect="every process on this machine may call the API")


@dataclass(frozen=True, slots=True)
class HealthEndpoints:
    """`checks` return the reason why a dependency is down, else None. `down_tasks` names the tasks that have failed.

    These endpoints need no key. So the answer says `down`, and only the log has the reason.
    """

    checks: Mapping[str, Check]
    down_tasks: Callable[[], list[str]]
    release: VersionOut
    _up: dict[str, bool] = field(default_factory=dict)

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
        was_up, self._up[name] = self._up.get(name), reason is None
        if reason is None and was_up is False:
            log.info(f"{name}.up")
        elif reason is not None and was_up is None:
            log.info(f"{name}.waiting", reason=reason)
        elif reason is not None and was_up:
            log.warning(f"{name}.down", reason=reason)

    async def version(self, request: Request) -> Response:
        return as_json(self.release)

    async def metrics(self, request: Request) -> Response:
        """All metrics, in the form that `Accept` names. Encoding takes milliseconds, so a thread does it."""
        body, media_type = await asyncio.to_thread(exposition.render, request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type})
