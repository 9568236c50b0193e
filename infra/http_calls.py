"""Outgoing HTTP calls of providers and callbacks: one POST, its time limits, and calls without an answer."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import aiohttp
import yarl

from infra.resolving import LookUpTimeout, Resolver, ResolverBusy
from jobs.outcome import Outcome, Verdict
from jobs.retry import remote_clock, retry_after_seconds

_BODY_SECONDS = 2.0  # that a body may take after its head


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer. `retry_after_seconds` is its wish; `body` is empty unless it was read whole and in time."""

    status: int
    retry_after_seconds: float | None
    body: bytes = b""


def resolver(seconds: float, *, threads: int) -> Resolver:
    """A resolver of one sender's own; a look-up may take a third of the call's time."""
    return Resolver(threads=threads, seconds=seconds / 3)


def timeouts(seconds: float) -> aiohttp.ClientTimeout:
    """Time limits of one call. Connecting has a limit of its own: a call that never connected is surely not sent."""
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
    """Post once, without redirects. At most `body_bytes` of a successful answer are read; errors in its body are ignored.

    Raises:
        aiohttp.ClientError, TimeoutError: no complete head came within `seconds`.
    """
    until = asyncio.get_running_loop().time() + seconds
    async with asyncio.timeout_at(until):
        response = await session.post(url, data=data, headers=headers, allow_redirects=False)
    try:
        answer = Answer(response.status, _requested_wait(response.headers))
        wanted = body_bytes if 200 <= response.status < 300 else 0
        return replace(answer, body=await _body(response.content, wanted, until)) if wanted else answer
    finally:
        _release(response)


def _release(response: aiohttp.ClientResponse) -> None:
    """Return the connection to the pool. An unfinished exchange is aborted: an orderly end would wait for the peer to read."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.release()


def _requested_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header. A date is compared with the answer's own Date."""
    return retry_after_seconds(headers.get("Retry-After"), remote_clock(headers.get("Date"), datetime.now(UTC)))


async def _body(content: aiohttp.StreamReader, longest: int, until: float) -> bytes:
    read = bytearray()
    try:
        async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + _BODY_SECONDS)):
            while len(read) < longest and (part := await content.read(longest - len(read))):
                read += part
    except (aiohttp.ClientError, TimeoutError):
        return b""
    return bytes(read)


def outcome_of(error: aiohttp.ClientError | TimeoutError) -> Outcome:
    """Judge a call without an answer. Without a connection it was surely not sent; after that it may have been."""
    match error:
        case aiohttp.ClientSSLError():
            return Outcome(Verdict.RETRYABLE, "tls_failed", surely_not_sent=True, answered=False)
        case aiohttp.ClientConnectorError(os_error=ResolverBusy()):  # our own shortage: not charged
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
