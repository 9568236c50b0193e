"""Who calls: the key in `Authorization: Bearer ph_…`, looked up once, then watched: a revocation is heeded within a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.limits import RateLimits
from api.problems import Problem, unavailable
from infra.errors import Transient
from infra.keys import OPEN_CLIENT, KeyRecord, Scope, matches, prefix_of
from infra.outage_log import OutageLog
from service.batching import Batcher

log = structlog.get_logger()

LOOK_SECONDS = 0.4  # what is revoked is refused after this and one look, in every process
LOOKUP_SECONDS = 0.3
LOOKUPS = 2000  # keys that may wait for their look-up; one statement at a time looks up 500
UNKNOWN_SECONDS = 10.0  # a key that was not found is not looked up again for so long
UNKNOWN_KEYS = 10_000
IDLE_SECONDS = 300.0  # a key that was not shown for so long, and under which nothing streams, is not watched any more

Handler = Callable[[Request], Awaitable[Response]]


class NoKeys(Exception):
    """The API would be open to everybody who can reach it, and was not told to be."""


@dataclass(slots=True)
class Caller:
    """Whoever sent a request: the client, what it may do, and for how many requests it is being waited with."""

    client_id: str
    scopes: frozenset[Scope]
    prefix: str | None = None
    usable: bool = True
    waiting: int = 0

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    @property
    def sees_all(self) -> bool:
        """Whether the dead letters of every client are its to handle."""
        return Scope.ADMIN in self.scopes


@dataclass(slots=True)
class _Known:
    record: KeyRecord
    caller: Caller
    used_at: float = field(default_factory=time.monotonic)


class Keys(Protocol):
    """What is needed of the ledger."""

    async def find(self, prefixes: Sequence[str], timeout: float) -> Sequence[KeyRecord | None]: ...
    async def any(self, timeout: float) -> bool: ...


class Keyring:
    """The keys that this process has been shown lately.

    While Postgres does not answer, what was known last holds: nobody can revoke a key then. `off`: everybody is welcome.
    `may_be_open`: so they are while there is no key; else nobody is let in before there is one.
    """

    def __init__(
        self,
        keys: Keys,
        revoked: Callable[[], None],
        *,
        off: bool,
        may_be_open: bool,
    ):
        self._keys = keys
        self._lookups: Batcher[str, KeyRecord | None] = Batcher(
            keys.find, key=lambda prefix: prefix, repeat_transient=True, capacity=LOOKUPS
        )
        self._revoked = revoked
        self._off = off
        self._may_be_open = may_be_open
        self._outage = OutageLog("keys", "the last known keys hold, so a revocation is not heeded")
        self._open = Caller(OPEN_CLIENT, frozenset(Scope))
        self._known: dict[str, _Known] = {}
        self._unknown: dict[str, float] = {}  # until when a prefix is not looked up again, oldest first
        self.required: bool | None = False if off else None  # None: Postgres has not been asked yet

    async def run(self) -> None:
        """Subscription until cancelled."""
        while not self._off:
            await self.refresh()
            await asyncio.sleep(LOOK_SECONDS)

    async def refresh(self) -> None:
        """One look at every key that is in use, and whether there are any."""
        idle_since = time.monotonic() - IDLE_SECONDS
        self._known = {
            prefix: known for prefix, known in self._known.items() if known.caller.waiting or known.used_at > idle_since
        }
        try:
            if not self.required:
                self.required = await self._keys.any(LOOK_SECONDS)
            # Past the look-ups: a flood of unknown keys delays no revocation.
            watched = list(self._known.values())
            records = await self._keys.find([known.record.prefix for known in watched], LOOK_SECONDS) if watched else []
        except Transient as error:
            self._outage.failed(error)
            return
        self._outage.succeeded()
        for record, known in zip(records, watched, strict=True):
            self._learn(known, record)

    def _learn(self, known: _Known, record: KeyRecord | None) -> None:
        if record is not None and record.usable:
            known.record = record
            known.caller.scopes = record.scopes
            return
        log.info("key.refused", key=known.record.prefix, reason="revoked or expired")
        known.caller.usable = False
        self._known.pop(known.record.prefix, None)
        self._revoked()

    async def caller(self, request: Request) -> Caller:
        """Who sent this request.

        Raises:
            Problem: 401 without a usable key where one is needed, 503 where nobody can tell.
        """
        if self.required is None:
            raise unavailable("The database has not been seen yet; whether you may call is unknown.")
        if not self.required:
            if not self._may_be_open:
                raise unavailable("There are no keys yet, and nobody may call without one.")
            return self._open
        key = _bearer_key(request)
        prefix = prefix_of(key)
        if prefix is None:
            raise _unauthorized("Send the header Authorization: Bearer ph_…")
        known = self._known.get(prefix) or await self._look_up(prefix)
        if known is None or not matches(key, known.record.hash):
            raise _unauthorized("This key is not known, has expired or was revoked.")
        known.used_at = time.monotonic()
        return known.caller

    async def _look_up(self, prefix: str) -> _Known | None:
        now = time.monotonic()
        if self._unknown.get(prefix, now) > now:
            return None
        try:
            record = await self._lookups.submit(prefix, LOOKUP_SECONDS)
        except Transient as error:
            raise unavailable("The database does not answer; whether this key may call is unknown.") from error
        if record is None or not record.usable:
            self._remember_unknown(prefix, now + UNKNOWN_SECONDS)
            return None
        return self._known.setdefault(prefix, _Known(record, Caller(record.client_id, record.scopes, prefix)))

    def _remember_unknown(self, prefix: str, until: float) -> None:
        self._unknown.pop(prefix, None)
        self._unknown[prefix] = until
        if len(self._unknown) > UNKNOWN_KEYS:
            del self._unknown[next(iter(self._unknown))]


def _bearer_key(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="posthaste"'})


def caller_of(request: Request) -> Caller:
    """Who sent this request, as a route behind `Access` finds it."""
    caller: Caller = request.scope["posthaste.caller"]
    return caller


def client_of(request: Request) -> str:
    return caller_of(request).client_id


@dataclass(frozen=True, slots=True)
class Access:
    """Lets requests through to routes if their key has the scope, and there are not too many of them."""

    keyring: Keyring
    limits: RateLimits

    def to(self, routes: Iterable[Route], read: Scope, write: Scope | None = None) -> list[Route]:
        """The same routes for keys with scope `read`; where they change something, with `write`."""
        return [self._guarded(route, write if write and "GET" not in (route.methods or ()) else read) for route in routes]

    def _guarded(self, route: Route, scope: Scope) -> Route:
        handler: Handler = route.endpoint

        async def guarded(request: Request) -> Response:
            caller = await self._caller(request)
            if not caller.may(scope):
                raise Problem(403, "forbidden", f"This key lacks the scope {scope}.")
            request.scope["posthaste.caller"] = caller
            return await handler(request)

        return Route(route.path, guarded, methods=list(route.methods or ()), name=route.name)

    async def _caller(self, request: Request) -> Caller:
        """The caller by its key. Requests without a usable key count against their address.

        The key comes first: bad keys behind an address lock out no valid key behind the same address.
        """
        try:
            caller = await self.keyring.caller(request)
        except Problem as problem:
            if problem.status == 401:
                await self.limits.stranger(request.client.host if request.client else "unknown")
            raise
        if caller.prefix is not None:
            await self.limits.key(caller.prefix)
        return caller
