"""Outgoing HTTP calls of providers and callbacks: the POST, its timeouts, and the outcomes of failures."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import aiohttp
import yarl

from infra.resolving import LookUpTimeout, Resolver, ResolverBusy
from jobs.outcome import Outcome, Verdict
from jobs.retry import remote_clock, retry_after_seconds

_BODY_SECONDS = 2.0  # from the head of a response to the end of its body


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. `retry_after_seconds`: its Retry-After. `body` is empty unless it was read in time."""

    status: int
    retry_after_seconds: float | None
    body: bytes = b""


def resolver(seconds: float, *, threads: int) -> Resolver:
    """A new resolver. One look-up may take a third of the call's time."""
    return Resolver(threads=threads, seconds=seconds / 3)


def timeouts(seconds: float) -> aiohttp.ClientTimeout:
    """Timeouts of one call. Connecting has a timeout of its own: a call without a connection was not sent."""
    return aiohttp.ClientTimeout(total=seconds, connect=seconds * 2 / 3, sock_connect=seconds / 3)


async def post(
    session: aiohttp.ClientSession,
    url: yarl.URL,
    data: bytes,
    headers: Mapping[str, str],
    *,
    seconds: float,
    body_bytes: int = 0,
) -> Answer:
    """Post once, without redirects. At most `body_bytes` of a 2xx response are read; errors in its body are ignored.

    Raises:
        aiohttp.ClientError, TimeoutError: no complete response head within `seconds`.
    """
    until = asyncio.get_running_loop().time() + seconds
    async with asyncio.timeout_at(until):
        response = await session.post(url, data=data, headers=headers, allow_redirects=False)
    try:
        answer = Answer(response.status, _retry_after(response.headers))
        limit = body_bytes if 200 <= response.status < 300 else 0
        return replace(answer, body=await _body(response.content, limit, until)) if limit else answer
    finally:
        _release(response)


def _release(response: aiohttp.ClientResponse) -> None:
    """Return the connection to the pool. An unfinished exchange is aborted: an orderly close would wait for the peer."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.release()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header. A date counts from the response's own Date."""
    return retry_after_seconds(headers.get("Retry-After"), remote_clock(headers.get("Date"), datetime.now(UTC)))


async def _body(content: aiohttp.StreamReader, limit: int, until: float) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + _BODY_SECONDS)):
            while len(body) < limit and (part := await content.read(limit - len(body))):
                body += part
    except (aiohttp.ClientError, TimeoutError):
        return b""
    return bytes(body)


def outcome_of(error: aiohttp.ClientError | TimeoutError) -> Outcome:
    """The outcome of a call without an answer. Without a connection it was surely not sent."""
    match error:
        case aiohttp.ClientSSLError():
            return Outcome(Verdict.RETRYABLE, "tls_failed", surely_not_sent=True, answered=False)
        case aiohttp.ClientConnectorError(os_error=ResolverBusy()):  # a local shortage: not charged
            return Outcome(Verdict.DEFERRED, "resolver_busy", surely_not_sent=True)
        case aiohttp.ClientConnectorError(os_error=LookUpTimeout()):
            return Outcome(Verdict.RETRYABLE, "dns_timeout", surely_not_sent=True, answered=False)
        case aiohttp.ClientConnectorError():
            return Outcome(Verdict.RETRYABLE, "no_connection", surely_not_sent=True, answered=False)
        case aiohttp.ConnectionTimeoutError():
            return Outcome(Verdict.RETRYABLE, "connect_timeout", surely_not_sent=True, answered=False)
        case TimeoutError():
            return Outcome(Verdict.UNKNOWN, "timeout", answered=False)
    return Outcome(Verdict.UNKNOWN, "connection_lost", answered=False)
