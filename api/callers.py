"""Callers: authenticated by the key in `Authorization: Bearer ph_…`, authorized by its scopes, within its rate limit.

A revocation takes effect within a second. Requests without a usable key count against their address.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from limits import RateLimitItem
from starlette.requests import Request
from starlette.responses import Response

from api.problems import Problem, unavailable
from infra.errors import Transient
from infra.keys import OPEN_CLIENT, KeyRecord, Scope, matches, prefix_of
from infra.logs import OutageLog
from infra.redis.rates import LimitExceeded
from service.batching import Batcher

log = structlog.get_logger()

REFRESH_SECONDS = 0.4  # between two reads of the keys in use
LOOKUP_SECONDS = 0.3
LOOKUPS = 2000  # waiting lookups; one statement looks up 500 keys
UNKNOWN_SECONDS = 10.0  # an unknown key is not looked up again for so long
UNKNOWN_KEYS = 10_000
IDLE_SECONDS = 300.0  # a key without requests for so long, and without streams, is no longer refreshed
LOG_EVERY_SECONDS = 60.0  # that requests are not limited

Endpoint = Callable[[Request], Awaitable[Response]]
Hit = Callable[[RateLimitItem, str], Awaitable[LimitExceeded | None]]  # counts one request of this name


class NoKeys(Exception):
    """The API has no keys, and the settings do not allow open access."""


@dataclass(slots=True)
class Caller:
    """The client of a key, its scopes, and its waiting requests. `prefix`: None without authentication; `hash`: of the key."""

    client_id: str
    scopes: frozenset[Scope]
    prefix: str | None = None
    hash: str = ""
    usable: bool = True
    waiting: int = 0
    used_at: float = field(default_factory=time.monotonic)

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


class Keys(Protocol):
    """The keys in the ledger."""

    async def find(self, prefixes: Sequence[str], timeout: float) -> Sequence[KeyRecord | None]: ...
    async def any(self, timeout: float) -> bool: ...


class Keyring:
    """The keys that clients of this process used lately.

    While Postgres does not answer, the last known keys hold: nobody can revoke a key then. `off` disables authentication.
    `may_be_open` allows open access while there are no keys; without it, requests are rejected until there is one.
    """

    def __init__(self, keys: Keys, on_revoked: Callable[[], None], *, off: bool, may_be_open: bool):
        self._keys = keys
        self._lookups: Batcher[str, KeyRecord | None] = Batcher(
            keys.find, key=lambda prefix: prefix, repeat_transient=True, capacity=LOOKUPS
        )
        self._on_revoked = on_revoked
        self._off = off
        self._may_be_open = may_be_open
        self._outage = OutageLog("keys", "the last known keys hold, so revocations have no effect")
        self._open = Caller(OPEN_CLIENT, frozenset(Scope))
        self._cached: dict[str, Caller] = {}  # by prefix
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
            prefix: caller for prefix, caller in self._cached.items() if caller.waiting or caller.used_at > idle_since
        }
        try:
            if not self.required:
                self.required = await self._keys.any(REFRESH_SECONDS)
            # This read passes the lookups: a flood of unknown keys delays no revocation.
            in_use = dict(self._cached)
            records = await self._keys.find(list(in_use), REFRESH_SECONDS) if in_use else []
        except Transient as error:
            self._outage.failed(error)
            return
        self._outage.succeeded()
        for (prefix, caller), record in zip(in_use.items(), records, strict=True):
            if record is not None and record.usable:
                caller.scopes = record.scopes
            else:
                log.info("key.rejected", key=prefix, reason="revoked or expired")
                caller.usable = False
                self._cached.pop(prefix, None)
                self._on_revoked()

    async def caller(self, request: Request) -> Caller:
        """The caller of this request. Raises a 401 problem without a usable key, 503 while the keys are unknown."""
        if (open_caller := self.open_caller()) is not None:
            return open_caller
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("Send the header Authorization: Bearer ph_…")
        return await self.caller_with(key.strip())

    def open_caller(self) -> Caller | None:
        """The caller of every request while none needs a key; None: requests need one. Raises 503 while that is unknown."""
        if self.required is None:
            raise unavailable("The database has not answered yet. The API cannot authenticate requests.")
        if self.required:
            return None
        if not self._may_be_open:
            raise unavailable("There are no keys yet, and requests need one.", code="no_keys")
        return self._open

    async def caller_with(self, key: str) -> Caller:
        """The caller with this key. Raises a 401 problem unless the key is usable, 503 while the keys are unknown."""
        prefix = prefix_of(key)
        caller = None if prefix is None else await self.caller_named(prefix)
        if caller is None or not matches(key, caller.hash):
            raise _unauthorized("This key is unknown, expired or revoked.")
        caller.used_at = time.monotonic()
        return caller

    async def caller_named(self, prefix: str) -> Caller | None:
        """The caller whose usable key has this prefix. Prefixes are public: the request must prove the key. Raises 503."""
        return self._cached.get(prefix) or await self._look_up(prefix)

    async def _look_up(self, prefix: str) -> Caller | None:
        now = time.monotonic()
        if self._unknown.get(prefix, now) > now:
            return None
        try:
            record = await self._lookups.submit(prefix, LOOKUP_SECONDS)
        except Transient as error:
            raise unavailable("The database does not answer. The API cannot authenticate this key.") from error
        if record is None or not record.usable:
            self._unknown.pop(prefix, None)
            self._unknown[prefix] = now + UNKNOWN_SECONDS
            if len(self._unknown) > UNKNOWN_KEYS:
                del self._unknown[next(iter(self._unknown))]
            return None
        return self._cached.setdefault(prefix, Caller(record.client_id, record.scopes, prefix, record.hash))


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="posthaste"'})


def caller_of(request: Request) -> Caller:
    """The caller of a request that passed `Access`."""
    caller: Caller = request.scope["posthaste.caller"]
    return caller


def client_of(request: Request) -> str:
    return caller_of(request).client_id


class Access:
    """Guards endpoints. Without Redis, whose counters `hit` increments, nothing is limited.

    `per_key` limits all requests of a key, `per_address` those without a usable key.
    """

    def __init__(self, keyring: Keyring, hit: Hit, per_key: RateLimitItem, per_address: RateLimitItem):
        self._keyring = keyring
        self._hit = hit
        self._per_key = per_key
        self._per_address = per_address
        self._logged_at = float("-inf")

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
        """The caller. Its key comes first: bad keys behind an address lock out no valid key behind the same address."""
        try:
            caller = await self._keyring.caller(request)
        except Problem as problem:
            if problem.status == 401:
                await self.count_bad_key(request)
            raise
        await self.count(caller)
        return caller

    async def count(self, caller: Caller) -> None:
        """Count a request of a key. Raises a 429 problem if its limit is exceeded."""
        if caller.prefix is not None:
            await self._count(self._per_key, caller.prefix, "key")

    async def count_bad_key(self, request: Request) -> None:
        """Count a request without a usable key by its address. Raises a 429 problem if the limit is exceeded."""
        await self._count(self._per_address, request.client.host if request.client else "unknown", "address")

    async def _count(self, limit: RateLimitItem, name: str, unit: str) -> None:
        """Count a request. Raises a 429 problem if the limit is exceeded."""
        try:
            exceeded = await self._hit(limit, name)
        except Transient as error:
            if time.monotonic() - self._logged_at > LOG_EVERY_SECONDS:
                self._logged_at = time.monotonic()
                log.warning("rates.down", reason=str(error), effect="requests are not limited")
            return
        if exceeded is not None:
            # draft-ietf-httpapi-ratelimit-headers
            policy = f'"{unit}";q={limit.amount};w={limit.get_expiry()}'
            fields = {"RateLimit-Policy": policy, "RateLimit": f'"{unit}";r=0;t={exceeded.seconds}'}
            detail = f"More than {limit.amount} requests in {limit.get_expiry()} s by this {unit}."
            raise Problem(429, "rate_limited", detail, headers={"Retry-After": str(exceeded.seconds), **fields})
