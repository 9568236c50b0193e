"""Authentication and authorization by the key in `Authorization: Bearer ph_…`. A revocation takes effect within a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.limits import RateLimits
from api.problems import Problem, unavailable
from infra.errors import Transient
from infra.keys import OPEN_CLIENT, KeyRecord, Scope, matches, prefix_of
from infra.outage_log import OutageLog
from service.batching import Batcher

log = structlog.get_logger()

REFRESH_SECONDS = 0.4  # between two reads of the keys in use
LOOKUP_SECONDS = 0.3
LOOKUPS = 2000  # waiting lookups; one statement looks up 500 keys
UNKNOWN_SECONDS = 10.0  # an unknown key is not looked up again for so long
UNKNOWN_KEYS = 10_000
IDLE_SECONDS = 300.0  # a key without requests for so long, and without streams, is no longer refreshed

Endpoint = Callable[[Request], Awaitable[Response]]


class NoKeys(Exception):
    """The API has no keys, and the settings do not allow open access."""


@dataclass(slots=True)
class Caller:
    """The client that sent a request, its scopes, and the number of its waiting requests."""

    client_id: str
    scopes: frozenset[Scope]
    prefix: str | None = None
    usable: bool = True
    waiting: int = 0

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    @property
    def is_operator(self) -> bool:
        """Whether it handles the dead letters of every client."""
        return Scope.ADMIN in self.scopes


@dataclass(slots=True)
class _CachedKey:
    record: KeyRecord
    caller: Caller
    used_at: float = field(default_factory=time.monotonic)


class Keys(Protocol):
    """The keys in the ledger."""

    async def find(self, prefixes: Sequence[str], timeout: float) -> Sequence[KeyRecord | None]: ...
    async def any(self, timeout: float) -> bool: ...


class Keyring:
    """The keys that clients of this process used lately.

    While Postgres does not answer, the last known keys hold: nobody can revoke a key then. `off` disables authentication.
    `may_be_open` allows open access while there are no keys; without it, requests are rejected until there is one.
    """

    def __init__(
        self,
        keys: Keys,
        on_revoked: Callable[[], None],
        *,
        off: bool,
        may_be_open: bool,
    ):
        self._keys = keys
        self._lookups: Batcher[str, KeyRecord | None] = Batcher(
            keys.find, key=lambda prefix: prefix, repeat_transient=True, capacity=LOOKUPS
        )
        self._on_revoked = on_revoked
        self._off = off
        self._may_be_open = may_be_open
        self._outage = OutageLog("keys", "the last known keys hold, so revocations have no effect")
        self._open = Caller(OPEN_CLIENT, frozenset(Scope))
        self._cached: dict[str, _CachedKey] = {}
        self._unknown: dict[str, float] = {}  # prefix and the end of its pause, oldest first
        self.required: bool | None = False if off else None  # None: Postgres has not answered yet

    async def run(self) -> None:
        """Refresh the keys until cancelled."""
        while not self._off:
            await self.refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Read every key in use again, and whether there are any keys."""
        idle_since = time.monotonic() - IDLE_SECONDS
        self._cached = {
            prefix: cached for prefix, cached in self._cached.items() if cached.caller.waiting or cached.used_at > idle_since
        }
        try:
            if not self.required:
                self.required = await self._keys.any(REFRESH_SECONDS)
            # This read passes the lookups: a flood of unknown keys delays no revocation.
            in_use = list(self._cached.values())
            records = await self._keys.find([key.record.prefix for key in in_use], REFRESH_SECONDS) if in_use else []
        except Transient as error:
            self._outage.failed(error)
            return
        self._outage.succeeded()
        for record, key in zip(records, in_use, strict=True):
            self._update(key, record)

    def _update(self, key: _CachedKey, record: KeyRecord | None) -> None:
        if record is not None and record.usable:
            key.record = record
            key.caller.scopes = record.scopes
            return
        log.info("key.rejected", key=key.record.prefix, reason="revoked or expired")
        key.caller.usable = False
        self._cached.pop(key.record.prefix, None)
        self._on_revoked()

    async def caller(self, request: Request) -> Caller:
        """The caller of this request.

        Raises:
            Problem: 401 the request needs a usable key, 503 the keys are unknown.
        """
        if self.required is None:
            raise unavailable("The database has not answered yet. The API cannot authenticate requests.")
        if not self.required:
            if not self._may_be_open:
                raise unavailable("There are no keys yet, and requests need one.")
            return self._open
        secret = _bearer_key(request)
        prefix = prefix_of(secret)
        if prefix is None:
            raise _unauthorized("Send the header Authorization: Bearer ph_…")
        key = self._cached.get(prefix) or await self._look_up(prefix)
        if key is None or not matches(secret, key.record.hash):
            raise _unauthorized("This key is unknown, expired or revoked.")
        key.used_at = time.monotonic()
        return key.caller

    async def _look_up(self, prefix: str) -> _CachedKey | None:
        now = time.monotonic()
        if self._unknown.get(prefix, now) > now:
            return None
        try:
            record = await self._lookups.submit(prefix, LOOKUP_SECONDS)
        except Transient as error:
            raise unavailable("The database does not answer. The API cannot authenticate this key.") from error
        if record is None or not record.usable:
            self._remember_unknown(prefix, now + UNKNOWN_SECONDS)
            return None
        return self._cached.setdefault(prefix, _CachedKey(record, Caller(record.client_id, record.scopes, prefix)))

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
    """The caller of a request that passed `Access`."""
    caller: Caller = request.scope["posthaste.caller"]
    return caller


def client_of(request: Request) -> str:
    return caller_of(request).client_id


@dataclass(frozen=True, slots=True)
class Access:
    """Guards endpoints: a request needs a key with the endpoint's scope, within its rate limit."""

    keyring: Keyring
    limits: RateLimits

    def guard(self, endpoint: Endpoint, scope: Scope) -> Endpoint:
        """The same endpoint for keys with `scope`."""

        async def guarded(request: Request) -> Response:
            caller = await self._caller(request)
            if not caller.may(scope):
                raise Problem(403, "forbidden", f"This key lacks the scope {scope}.")
            request.scope["posthaste.caller"] = caller
            return await endpoint(request)

        return guarded

    async def _caller(self, request: Request) -> Caller:
        """The caller by its key. Requests without a usable key count against their address.

        The key comes first: bad keys behind an address lock out no valid key behind the same address.
        """
        try:
            caller = await self.keyring.caller(request)
        except Problem as problem:
            if problem.status == 401:
                await self.limits.count_address(request.client.host if request.client else "unknown")
            raise
        if caller.prefix is not None:
            await self.limits.count_key(caller.prefix)
        return caller
